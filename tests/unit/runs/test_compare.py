"""Several runs side by side: what differs, their figures, and their curves as text and as a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import RunFolderError
from burnish.runs.compare import (
    compare_json,
    compare_markdown,
    compare_runs,
    differing_settings,
    metrics_of,
    read_runs,
    short_names,
)
from burnish.runs.curves import COLOURS, Curve, curves_chart, plot_curves, read_curve, scaled
from tests.unit.runs.past import make_run
from tests.unit.runs.test_plots import chunks, has_colour


def test_runs_side_by_side(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 5)
    make_run(tmp_path / "b", 5, rate=2e-4, train={"steps": 2, "train_loss": 0.6, "runtime_s": 4.4})
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert compare_runs(runs).split("\n") == [
        "setting        a      b",
        "─────────────  ─────  ──────",
        "learning_rate  0.001  0.0002",
        "",
        "figure                  a           b",
        "──────────────────────  ──────────  ─────────",
        "status                  completed   completed",
        "train loss              0.5123      0.6",
        "train loss, last tenth  1           1",
        "steps                   2           2",
        "time                    1 min 35 s  4 s",
        "tokens/s                1,234       -",
        "peak memory, MB         1,501       1,501",
        "parameters              1,234,567   1,234,567",
        "trainable parameters    8,000       8,000",
        "rows used               190         190",
        "tokens                  18,000      18,000",
        "supervised tokens       6,000       6,000",
    ]


def test_a_narrow_terminal_gets_the_runs_in_parts(tmp_path: Path) -> None:
    names = ["一号运行", "second", "a name that is much longer than it needs to be to tell runs apart"]
    for name in names:
        make_run(tmp_path / name, 5)
    text = compare_runs(read_runs([tmp_path / name for name in names]), width=50)
    from rich.cells import cell_len

    assert max(map(cell_len, text.split("\n"))) <= 50
    assert text.count("train loss ") == 2
    assert "一号运行" in text
    assert "…" in text
    lines = text.split("\n\n")[1].split("\n")
    assert len({cell_len(line[: line.index("completed")]) for line in lines if "completed" in line}) == 1


def test_a_folder_stands_for_the_runs_in_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_run(tmp_path / "sweep" / name, 5)
    (tmp_path / "sweep" / "torn").mkdir()
    (tmp_path / "sweep" / "torn" / "run.json").write_text("{")
    make_run(tmp_path / "other", 5)
    assert [run.name for run in read_runs([tmp_path / "sweep", tmp_path / "other"])] == ["a", "b", "other"]


def test_what_cannot_be_compared_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 5)
    with pytest.raises(RunFolderError, match="one run alone cannot be compared"):
        read_runs([tmp_path / "a"])
    with pytest.raises(RunFolderError, match=r"no run\.json here"):
        read_runs([tmp_path / "a", tmp_path / "absent"])
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"run\.json cannot be read"):
        read_runs([tmp_path / "a", tmp_path / "torn"])


def test_names_are_as_short_as_they_can_be() -> None:
    paths = [Path("/x/one/run"), Path("/x/two/run"), Path("/y/two/run"), Path("/x/three"), Path("/x/three")]
    assert short_names(paths) == ["one/run", "x/two/run", "y/two/run", "three", "three (2)"]


def test_parts_of_the_wrong_kind_and_equal_settings(tmp_path: Path) -> None:
    make_run(tmp_path / "odd", 5, train="x", model=None, settings=[1])
    runs = read_runs([tmp_path / "odd", tmp_path / "odd"])
    assert compare_runs(runs).startswith("the settings are the same")
    make_run(tmp_path / "whole", 5)
    found = differing_settings(read_runs([tmp_path / "odd", tmp_path / "whole"]))
    assert found == {"learning_rate": [None, 0.001], "lora.rank": [None, 8], "stage": [None, "sft"]}


def test_tables_for_documents_and_values_for_scripts(tmp_path: Path) -> None:
    make_run(tmp_path / "a|b", 5).metrics.append({"step": 4, "loss": 0.5, "eval_loss": 0.7, "gpu_percent": 90.0})
    make_run(tmp_path / "c", 5, rate=2e-4)
    runs = read_runs([tmp_path / "a|b", tmp_path / "c"])
    lines = compare_markdown(runs, "two curves.png").split("\n")
    assert lines[:3] == ["| setting | a\\|b | c |", "| --- | ---: | ---: |", "| learning_rate | 0.001 | 0.0002 |"]
    assert "| GPU use, mean % | 90 | - |" in lines
    assert lines[-1] == "![the curves of these runs](two%20curves.png)"
    values = compare_json(runs)
    assert json.loads(json.dumps(values))["settings"] == {"learning_rate": {"a|b": 0.001, "c": 0.0002}}
    assert values["runs"][0]["curve"]["train"] == [(1.0, 2.0), (2.0, 1.0), (4.0, 0.5)]
    assert values["runs"][0]["curve"]["eval"] == [(4.0, 0.7)]
    assert values["runs"][0]["figures"]["gpu_percent"] == 90.0
    assert metrics_of(runs) == ["eval_loss", "gpu_percent", "loss"]


ROWS: list[dict[str, Any]] = [
    {"step": 0, "epoch": 0.0, "eval_loss": 3.0},
    {"step": 1, "loss": 2.0, "tokens": 1000, "elapsed_s": 100.0},
    {"step": 2, "loss": math.nan, "tokens": 2000, "elapsed_s": 200.0},
    {"step": 3, "loss": 1.0, "tokens": 5000, "elapsed_s": 600.0, "eval_loss": 1.5},
    {"step": 4, "loss": None},
]


def test_curves_run_over_steps_tokens_or_time() -> None:
    assert read_curve("a", ROWS) == Curve("a", [(1.0, 2.0), (3.0, 1.0)], [(0.0, 3.0), (3.0, 1.5)])
    tokens, words = scaled([read_curve("a", ROWS, by="tokens")], "tokens")
    assert (tokens[0].train, words) == ([(1.0, 2.0), (5.0, 1.0)], "thousand tokens")
    assert tokens[0].evals == [(0.0, 3.0), (5.0, 1.5)]
    minutes, words = scaled([read_curve("a", ROWS, by="time")], "time")
    assert (minutes[0].train[-1], words) == ((10.0, 1.0), "minutes")
    assert scaled([read_curve("a", [])], "time")[1] == "seconds"


def falling(name: str, end: float, count: int = 40) -> Curve:
    return Curve(name, [(float(step), 2 * math.exp(-step / 8) + end) for step in range(1, count + 1)], [])


def test_the_chart_draws_each_run_with_its_letter() -> None:
    chart = curves_chart([falling("first", 0.1, 20), falling("订单", 1.0)], width=40, height=6).plain
    assert chart.split("\n") == [
        "  │bbb",
        "2 ┤  bbb",
        "  │aa   bbbbb",
        "  │  aaa     bbbbbbbbbbbbbbb",
        "1 ┤    aaaaaa              bbbbbbbbbbbbb",
        "  │         aaaaaaaaaa",
        "  └┬─────────────────┬─────────────────┬",
        "   1                20           step 40",
        "   a first: last tenth 0.2751",
        "   b 订单: last tenth 1.016",
    ]


def test_curves_that_lie_on_one_another_take_turns() -> None:
    chart = curves_chart([falling("x", 0.1), falling("y", 0.1)], width=60, height=8).plain
    assert "ab" in chart or "ba" in chart


def test_a_terminal_in_colours_gets_dots() -> None:
    chart = curves_chart([falling("x", 0.1), falling("y", 0.5)], colours=True)
    assert "⠒" in chart.plain
    assert {str(span.style) for span in chart.spans} == {"bright_blue", "yellow"}


def test_nothing_to_draw(tmp_path: Path) -> None:
    empty = [Curve("a", [], []), Curve("b", [], [])]
    assert curves_chart(empty, "reward").plain == "no finite reward was logged"
    assert not plot_curves(empty, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []
    one_only = curves_chart([falling("a", 0.1), Curve("b", [], []), Curve("c", [], [(1.0, 0.5), (40.0, 0.2)])])
    assert "b b: nothing logged" in one_only.plain
    assert "c c: eval 0.2" in one_only.plain


def test_the_picture_has_every_runs_colour(tmp_path: Path) -> None:
    curves = [
        falling("long " * 20, 0.1),
        falling("订单", 0.5),
        falling("$x_1$", 0.9, count=4),
        Curve("one", [(3.0, 2.0)], []),
    ]
    curves[1] = Curve("订单", curves[1].train, [(20.0, 1.5), (40.0, 1.0)])
    path = tmp_path / "curves.png"
    assert plot_curves(curves, path, by="step")
    assert chunks(path)
    for colour in COLOURS[:4]:
        assert has_colour(path, colour)
    assert not has_colour(path, COLOURS[4])
