"""Looking back at runs: listing, showing, comparing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import RunFolderError
from burnish.runs.folder import RunFolder
from burnish.runs.listing import compare_runs, list_runs, render_runs, show_run
from burnish.runs.lock import hold

NOW = 2_000_000_000.0


def make_run(path: Path, age_s: float, rate: float = 1e-3, **parts: Any) -> RunFolder:
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    folder.write_summary(
        {
            "status": "completed",
            "settings": {"stage": "sft", "learning_rate": rate, "output_dir": str(path), "lora": {"rank": 8}},
            "model": {"name": "tiny", "parameters": 1234567, "trainable": 8000, "dtype": "bfloat16"},
            "data": {
                "rows_read": 200,
                "rows_used": 190,
                "dropped": {"no answer": 8, "too long": 2, "empty": 0},
                "tokens": 18000,
                "supervised_tokens": 6000,
            },
            "train": {
                "steps": 2,
                "runtime_s": 95.2,
                "train_loss": 0.51234,
                "eval_loss": None,
                "tokens_per_second": 1234.4,
            },
            "memory": {"peak_rss_mb": 1500.7, "peak_gpu_mb": None},
            **parts,
        }
    )
    folder.metrics.append({"step": 1, "loss": 2.0})
    folder.metrics.append({"step": 2, "loss": 1.0})
    for name in ("run.json", "metrics.jsonl"):
        os.utime(path / name, (NOW - age_s, NOW - age_s))
    return folder


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
    assert (run["model"], run["steps"], run["stage"]) == (None, None, None)
    assert "odd" in render_runs([run], tmp_path)
    assert "odd" in show_run(tmp_path / "odd")
    assert compare_runs([tmp_path / "odd", tmp_path / "odd"])


def test_the_table_of_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "one", 60)
    assert render_runs(list_runs(tmp_path, now=NOW), tmp_path).split("\n") == [
        "run  status     model  steps  train loss  eval loss  time        last written",
        "───  ─────────  ─────  ─────  ──────────  ─────────  ──────────  ──────────────",
        "one  completed  tiny   2      0.5123      -          1 min 35 s  1 min 00 s ago",
    ]
    assert render_runs([]) == "no runs here"


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


def test_runs_side_by_side(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 5)
    make_run(tmp_path / "b", 5, rate=2e-4, train={"steps": 2, "train_loss": 0.6, "runtime_s": 4.4})
    assert compare_runs([tmp_path / "a", tmp_path / "b"]).split("\n") == [
        "setting        a      b",
        "─────────────  ─────  ──────",
        "learning_rate  0.001  0.0002",
        "",
        "figure                a           b",
        "────────────────────  ──────────  ─────────",
        "status                completed   completed",
        "train loss            0.5123      0.6",
        "steps                 2           2",
        "time                  1 min 35 s  4 s",
        "tokens/s              1,234       -",
        "peak memory, MB       1,501       1,501",
        "trainable parameters  8,000       8,000",
        "rows used             190         190",
        "tokens                18,000      18,000",
        "supervised tokens     6,000       6,000",
    ]


def test_runs_of_one_name_are_told_apart_and_equal_settings_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "x" / "run", 5)
    make_run(tmp_path / "y" / "run", 5)
    text = compare_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert text.startswith("the settings are the same")
    assert str(tmp_path / "x" / "run") in text
