"""What was judged, put together: the block in eval.json, tables for the terminal, a line for each reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.errors import DataError
from burnish.evaluate.judging.ask import Ask, Plan, Side
from burnish.evaluate.judging.figures import (
    EQUAL,
    Heard,
    Met,
    choice_agreement,
    grade_agreement,
    grade_difference,
    grade_figures,
    grades_of,
    human_choice,
    human_grade,
    meet,
    pair_figures,
    read_labels,
)
from burnish.evaluate.judging.replies import Judgement
from burnish.evaluate.judging.rows import Row
from burnish.registry import did_you_mean


@dataclass(frozen=True)
class Case:
    """The answers before the judge.

    Attributes:
        new, old: the rows of the model and of the one it is compared with, question by question; `old` is empty without
            a comparison.
        name, other: of the two models.
        graded, compared: whether single answers are graded, and pairs compared.
    """

    new: Sequence[Row]
    old: Sequence[Row]
    name: str
    other: str
    graded: bool
    compared: bool

    def rows(self, side: Side) -> Sequence[Row]:
        return self.new if side == "new" else self.old

    @property
    def sides(self) -> tuple[Side, ...]:
        return ("new", "old") if self.old else ("new",)

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        return list(zip(self.new, self.old, strict=True)) if self.old else []

    def called(self, side: Side) -> str:
        return self.name if side == "new" else self.other


@dataclass
class Findings:
    """What the judge found. `met`: rubric → pair → its end. `grades`, `pairs`: rubric → figures, as in eval.json."""

    grades: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)
    met: dict[str, dict[int, Met]] = field(default_factory=dict)


def find(case: Case, heard: Heard, plan: Plan, labels: str | None = None) -> Findings:
    """All figures of a case.

    Args:
        heard: request → what the judge said.
        labels: the column with what people think: a grade, or with pairs win, tie, loss.
    Raises:
        DataError: there is no such column, or nothing in it can be read.
    """
    found = Findings()
    human, unread = human_labels(case, labels) if labels else ({}, 0)
    answered = {side: sum(row.answer is not None for row in case.rows(side)) for side in case.sides}
    for rubric in plan.rubrics:
        if case.graded:
            for side in case.sides:
                found.grades.setdefault(rubric, {})[side] = grade_figures(heard, rubric, side, answered[side])
            if case.old:
                found.grades[rubric]["difference"] = grade_difference(heard, rubric)
            if human and not case.compared:
                mine = {row: sum(each) / len(each) for row, each in grades_of(heard, rubric, "new").items()}
                found.grades[rubric]["human"] = grade_agreement(mine, human) | {"column": labels, "unread": unread}
        if case.compared:
            both = {n: pair for n, pair in enumerate(case.pairs) if None not in (pair[0].answer, pair[1].answer)}
            met = {n: EQUAL for n, (new, old) in both.items() if new.answer == old.answer} | meet(heard, rubric)
            found.met[rubric] = met
            found.pairs[rubric] = pair_figures(met, len(both))
            if human:
                ended = {n: each.outcome for n, each in met.items() if each.outcome}
                found.pairs[rubric]["human"] = choice_agreement(ended, human) | {"column": labels, "unread": unread}
    return found


def human_labels(case: Case, column: str) -> tuple[dict[int, Any], int]:
    """What people say in a column, by row: grades, or where pairs are compared win, tie, loss; and how many labels
    cannot be read.

    Raises:
        DataError: no row has the column, or none of its labels can be read.
    """
    held = {number: row.labels[column] for number, row in enumerate(case.new) if column in row.labels}
    if not held:
        names = {name for row in case.new for name in row.labels}
        raise DataError(f"no row has the column '{column}'", at="--judge-labels", fix=did_you_mean(column, names))
    known, unread = read_labels(held, human_choice if case.compared else human_grade)
    if not known:
        wanted = "win, tie or loss (of the first model)" if case.compared else "a number, the grade"
        shown = next((value for value in held.values() if value is not None), None)
        raise DataError(
            f"no label in '{column}' can be read, such as {shown!r}", at="--judge-labels", fix=f"write {wanted}"
        )
    return known, unread


def without_verdict(case: Case, heard: Heard) -> list[dict[str, Any]]:
    """Every request without a verdict: where, what for, why, and what the judge said."""
    return [
        {**_named(case, ask), "why": said.fault, "said": said.reason[:500]}
        for ask, said in heard.items()
        if said.fault is not None
    ]


def reply_lines(case: Case, heard: Heard) -> list[dict[str, Any]]:
    """A line for each request: where, what for, and the verdict with its reason, or why there is none."""
    return [_line(case, ask, said) for ask, said in heard.items()]


def _line(case: Case, ask: Ask, said: Judgement) -> dict[str, Any]:
    verdict = {"grade": said.grade} if ask.kind == "score" else {"choice": said.choice}
    return {**_named(case, ask), **verdict, "reason": said.reason, "fault": said.fault}


def _named(case: Case, ask: Ask) -> dict[str, Any]:
    about = {"index": ask.number, "place": case.new[ask.number].place, "rubric": ask.rubric, "repeat": ask.repeat}
    if ask.kind == "score":
        return {"kind": "grade", **about, "model": case.called(ask.side)}
    return {"kind": "pair", **about, "first": case.called(ask.side)}


def without_answers(case: Case) -> dict[str, int]:
    """Why rows have no answer → how many of either model."""
    rows = [row for side in case.sides for row in case.rows(side)]
    return dict(Counter(row.skipped for row in rows if row.skipped is not None))


def grade_rows(case: Case, found: Findings) -> list[list[str]]:
    """A table of mean grades, its head first."""
    rows = [["rubric", "model", "mean of 10", "95% interval", "graded", "not graded"]]
    for rubric, sides in found.grades.items():
        for side in case.sides:
            each = sides[side]
            mean, span = ("–", "–")
            if each["n"]:
                mean, span = f"{each['mean']:.2f}", f"{each['low']:.2f} to {each['high']:.2f}"
            rows.append([rubric, case.called(side), mean, span, str(each["n"]), str(each["not_graded"])])
    return rows


def pair_rows_table(found: Findings) -> list[list[str]]:
    """A table of wins and losses, its head first."""
    rows = [["rubric", "won", "tied", "lost", "win rate", "95% interval", "p", "orders agree", "chose first", "unread"]]
    for rubric, each in found.pairs.items():
        if not each["n"]:
            rows.append([rubric, *["–"] * 8, str(each["not_compared"])])
            continue
        rows.append([
            rubric, str(each["wins"]), str(each["ties"]), str(each["losses"]), f"{each['win_rate']:.1%}",
            f"{each['low']:.1%} to {each['high']:.1%}", f"{each['p']:.2g}", _share(each["consistency"]),
            _share(each["first_share"]), str(each["not_compared"]),
        ])  # fmt: skip
    return rows


def agreement_lines(found: Findings, case: Case) -> list[str]:
    """How far the judge agrees with itself and with people, a line each."""
    lines = []
    for rubric, sides in found.grades.items():
        for side in case.sides:
            if again := sides[side].get("repeats"):
                lines.append(
                    f"{rubric}, {case.called(side)}: asked again, the judge gives the same grade in "
                    f"{again['equal']:.0%}, within one point in {again['within_one']:.0%}"
                )
        if human := sides.get("human"):
            lines.append(f"{rubric}: {_human(human, _grades_and_people)}")
    for rubric, each in found.pairs.items():
        if again := each.get("repeats"):
            lines.append(f"{rubric}, pairs: asked again, the judge ends {again['equal']:.0%} alike")
        if human := each.get("human"):
            lines.append(f"{rubric}, pairs: {_human(human, _pairs_and_people)}")
    return lines


def _human(human: Mapping[str, Any], words: Any) -> str:
    left = f"; {human['unread']} labels cannot be read" if human["unread"] else ""
    if not human["n"]:
        return f"no row has both a verdict and a label in '{human['column']}'{left}"
    return f"{words(human)} ({human['n']} labels in '{human['column']}'{left})"


def _grades_and_people(human: Mapping[str, Any]) -> str:
    ranks = "–" if human["spearman"] is None else f"{human['spearman']:.2f}"
    return (
        f"against people, within one point in {human['within_one']:.0%}, {human['mean_difference']:+.2f} in the mean, "
        f"rank correlation {ranks}"
    )


def _pairs_and_people(human: Mapping[str, Any]) -> str:
    kappa = "–" if human["kappa"] is None else f"{human['kappa']:.2f}"
    return f"the same end as people give in {human['equal']:.0%}, kappa {kappa}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
