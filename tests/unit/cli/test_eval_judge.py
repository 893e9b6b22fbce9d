"""What `burnish eval --judge` tells of requests without a verdict."""

from __future__ import annotations

from burnish.cli.eval_judge import _tell_unread
from burnish.evaluate.judging.report import Case


def test_reasons_that_differ_by_a_figure_are_told_once(capsys):
    whys = ["refused: 1651 tokens are too many", "refused: 1652 tokens are too many", "the reply was empty"]
    without = [{"why": why, "place": f"row {number}", "rubric": "honesty"} for number, why in enumerate(whys)]
    _tell_unread(Case([], [], "m", "", True, False), without, 9)
    said = capsys.readouterr().out
    assert "2 × refused: 1651 tokens are too many (first: row 0, honesty)" in said
    assert "1652" not in said
    assert "1 × the reply was empty (first: row 2, honesty)" in said
