"""Looking back at runs: listing, showing, comparing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from burnish.errors import RunFolderError
from burnish.runs.listing import list_runs, render_runs, show_json, show_run, sorted_runs
from burnish.runs.lock import hold
from tests.unit.runs.past import NOW, make_run


def test_runs_are_listed_the_newest_first(tmp_path: Path) -> None:
    make_run(tmp_path / "old", 7200)
    make_run(tmp_path / "deep" / "er" / "new", 60)
    make_run(tmp_path / ".hidden" / "run", 1)
    make_run(tmp_path / "old" / "checkpoint-2" / "copy", 1)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"schema": 1, "sta')
    os.utime(broken / "run.json", (NOW - 600, NOW - 600))
    runs = list_runs(tmp_path, now=NOW)
    assert [Path(run["path"]).name for run in runs] == ["new", "broken", "old"]
    assert [run["status"] for run in runs] == ["completed", "broken", "completed"]
    assert "cannot be read" in runs[1]["problem"]
    assert runs[0]["train_loss"] == 0.51234
    assert runs[0]["stage"] == "sft"
    assert runs[0]["age_s"] == pytest.approx(60)
    assert list_runs(tmp_path / "absent") == []
    assert [Path(run["path"]).name for run in list_runs(tmp_path / "old")] == ["old"]


def test_parts_of_the_wrong_kind_do_not_break_the_list(tmp_path: Path) -> None:
    make_run(tmp_path / "odd", 5, train="x", model=None, settings=[1])
    (run,) = list_runs(tmp_path, now=NOW)
    assert (run["model"], run["steps"], run["stage"]) == (None, 2, None)
    assert "odd" in render_runs([run], tmp_path)
    assert "odd" in show_run(tmp_path / "odd")


def test_the_table_of_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 60)
    make_run(tmp_path / "订单", 120, model={"name": "/models/tiny"})
    runs = list_runs(tmp_path, now=NOW)
    assert render_runs(runs, tmp_path).split("\n") == [
        "run   status     stage  model  steps  train loss  eval loss  time        last written",
        "────  ─────────  ─────  ─────  ─────  ──────────  ─────────  ──────────  ──────────────",
        "one   completed  sft    tiny   2      0.5123      -          1 min 35 s  1 min 00 s ago",
        "订单  completed  sft    tiny   2      0.5123      -          1 min 35 s  2 min 00 s ago",
    ]
    assert render_runs(runs, tmp_path, width=44).split("\n")[0] == "run   status     train loss  eval loss"
    assert render_runs([]) == "no runs here"


def test_what_is_wrong_with_a_broken_run_stands_below_the_table(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 60)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    table, _, problems = render_runs(list_runs(tmp_path, now=NOW), tmp_path).partition("\n\n")
    assert max(map(len, table.split("\n"))) < 100
    assert problems.startswith("torn: run.json cannot be read: ")


def test_unfinished_runs_tell_how_far_they_are(tmp_path: Path) -> None:
    make_run(tmp_path / "dead", 3600, status="running", train={})
    make_run(tmp_path / "alive", 5, status="running", train={})
    make_run(tmp_path / "early", 9, status="failed", train={}).metrics.path.unlink()
    with hold(tmp_path / "alive"):
        alive, early, dead = list_runs(tmp_path, now=NOW)
    assert (alive["steps"], alive["silent"], alive["status"]) == (2, False, "running")
    assert (dead["steps"], dead["silent"], dead["status"]) == (2, False, "died")
    assert early["steps"] is None
    with hold(tmp_path / "dead"):
        [hanging] = [run for run in list_runs(tmp_path, now=NOW) if run["silent"]]
    assert (hanging["path"], hanging["status"]) == (dead["path"], "running")
    assert "silent" in render_runs([hanging])


def test_runs_are_sorted_by_a_figure_and_those_without_it_come_last(tmp_path: Path) -> None:
    for name, loss in (("a", 0.5), ("b", None), ("c", 0.1)):
        make_run(tmp_path / name, 5, train={"train_loss": loss, "steps": 1})
    runs = list_runs(tmp_path, now=NOW)
    assert [Path(run["path"]).name for run in sorted_runs(runs, "loss")] == ["c", "a", "b"]
    assert [Path(run["path"]).name for run in sorted_runs(runs, "name")] == ["a", "b", "c"]


def test_a_run_for_people(tmp_path: Path) -> None:
    run = tmp_path / "one"
    make_run(run, 60)
    text = show_run(run, width=30, now=NOW)
    head, _, chart = text.partition("\n\n")
    assert head.split("\n") == [
        f"run      {run}",
        "status   completed",
        "model    tiny, 1,234,567 parameters, 8,000 trainable, bfloat16",
        "data     190 rows used of 200, 18,000 tokens, 6,000 supervised",
        "dropped  8 no answer, 2 too long",
        "train    2 steps, 1 min 35 s, 1,234 tokens/s",
        "loss     train 0.5123",
        "memory   peak 1,501 MB",
        "files    run.json, metrics.jsonl",
    ]
    assert "step 2" in chart
    assert "⠒ train" in chart


def test_a_dead_run_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "dead", 3 * 3600, status="running")
    (tmp_path / "dead" / "log.txt").write_text("".join(f"line {number}\n" for number in range(20)))
    os.utime(tmp_path / "dead" / "log.txt", (NOW - 9000, NOW - 9000))
    said = show_run(tmp_path / "dead", now=NOW)
    assert "status    died without a word 2 h 30 min ago: killed (exit code 137 or -9)" in said
    assert "log ends  \n    line 14\n" in said
    assert [run["status"] for run in list_runs(tmp_path)] == ["died"]
    with hold(tmp_path / "dead"):  # a process that is alive
        assert "running, but silent for 2 h 30 min: it may hang" in show_run(tmp_path / "dead", now=NOW)
        assert [run["status"] for run in list_runs(tmp_path)] == ["running"]
    error = {"type": "ModelError", "message": "no such model"}
    make_run(tmp_path / "failed", 5, status="failed", error=error, exit_code=2)
    said = show_run(tmp_path / "failed", now=NOW)
    assert "status   failed with exit code 2" in said
    assert "error    ModelError: no such model" in said


def test_a_system_without_locks_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    make_run(tmp_path / "dead", 3 * 3600, status="running")
    with hold(tmp_path / "dead"):
        assert "running, but silent for 3 h 00 min: it may have died" in show_run(tmp_path / "dead", now=NOW)


def test_a_run_without_rows(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "early", 5)
    folder.metrics.path.unlink()
    assert show_run(tmp_path / "early").endswith("nothing was logged yet")


def test_no_run_to_show(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run\.json here"):
        show_run(tmp_path)


def test_what_the_machine_did_is_one_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", 5)
    folder.metrics.append({"step": 3, "loss": 1.0, "cpu_percent": 80.0, "memory_used_mb": 900.0, "gpu_percent": 90.0})
    folder.metrics.append({"step": 4, "loss": 1.0, "cpu_percent": 90.0, "memory_used_mb": 1200.0, "gpu_power_w": 310.0})
    assert "machine  CPU 85 % busy, 1,200 MB of memory in use, GPU 90 % at 310 W\n" in show_run(tmp_path / "one")


def test_a_run_as_json(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 60)
    shown = show_json(tmp_path / "one", now=NOW)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["train"]["train_loss"] == 0.51234
    assert (shown["rows"], shown["last_row"]["step"], shown["age_s"]) == (2, 2, 60.0)
    assert shown["checkpoints"] == []
