"""judge.html: the answers side by side with grades, ends of pairs and the judge's reasons, in one file."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from burnish.evaluate.judging.ask import Ask
from burnish.evaluate.judging.figures import LOSS, TIE, WIN, Heard
from burnish.evaluate.judging.replies import Judgement
from burnish.evaluate.judging.report import Case, Findings
from burnish.evaluate.predictions_page import MOST_ROWS, SCRIPT, STYLE
from burnish.runs.files import write_atomically

_MORE = """
.win .first, .high .first { border-left: 4px solid #2e9e4a; }
.loss .first, .low .first { border-left: 4px solid #c0392b; }
.said { padding: .3rem .5rem; } ul { margin: .2rem 0; padding-left: 1.2rem; grid-column: 1 / -1; }
th { text-align: left; padding-right: 1rem; } td, th { white-space: nowrap; }
table { display: block; overflow-x: auto; }
b.unread { color: #c0392b; }
"""
_PAIR_KINDS = {WIN: "won", TIE: "tied", LOSS: "lost", "unread": "without a verdict"}
_GRADE_KINDS = {"high": "7 to 10", "middle": "4 to 7", "low": "below 4", "unread": "without a grade"}


def write_judge_page(
    path: Path,
    case: Case,
    heard: Heard,
    found: Findings,
    tables: Sequence[Sequence[Sequence[str]]],
    words: Sequence[str],
) -> None:
    """Write the page; of very many questions the first 2000 are on it.

    Args:
        tables: rows, the head first, for the top of the page.
        words: lines below them.
    """
    said: dict[int, list[tuple[Ask, Judgement]]] = defaultdict(list)
    for ask, each in heard.items():
        said[ask.number].append((ask, each))
    title = f"{case.name} against {case.other}, judged" if case.old else f"{case.name}, judged"
    kinds = _PAIR_KINDS if case.compared else _GRADE_KINDS
    choices = "".join(f"<option value='{kind}'>{name}</option>" for kind, name in kinds.items())
    shown = min(len(case.new), MOST_ROWS)
    cut = f"<p>The first {shown} of {len(case.new)} questions.</p>" if shown < len(case.new) else ""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}{_MORE}</style><h1>{html.escape(title)}</h1>",
        *map(_table, tables),
        *(f"<p>{html.escape(line)}</p>" for line in words),
        f"{cut}<form><input type='search' name='words' placeholder='text to look for'>",
        f"<select name='kind'><option value=''>all questions</option>{choices}</select><output></output></form>",
        *(_question(case, number, said[number], found) for number in range(shown)),
        f"<script>{SCRIPT}</script></html>",
    ]
    write_atomically(path, "".join(parts).encode("utf-8"))


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    lines = [head.replace("<td>", "<th>").replace("</td>", "</th>"), *body]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _question(case: Case, number: int, said: Sequence[tuple[Ask, Judgement]], found: Findings) -> str:
    row = case.new[number]
    kind = _pair_kind(number, found) if case.compared else _grade_kind(said)
    ends = {rubric: met[number].outcome for rubric, met in found.met.items() if number in met}
    told = ", ".join(f"{rubric}: {_PAIR_KINDS[end or 'unread']}" for rubric, end in ends.items())
    head = html.escape(row.place + (f" · {told}" if told else ""))
    reference = f"<details><summary>reference</summary><pre>{html.escape(row.reference or '–')}</pre></details>"
    sides = "".join(
        f"<div class='{'first' if side == 'new' else 'second'}'><h3>{html.escape(case.called(side))}</h3>"
        f"<pre class='said'>{html.escape(_answer(case, side, number))}</pre></div>"
        for side in case.sides
    )
    reasons = "".join(f"<li>{_reason(case, ask, each)}</li>" for ask, each in said)
    return (
        f"<section class='{kind}'><small>{head}</small><div style='grid-column: 1 / -1'><h3>question</h3>"
        f"<pre>{html.escape(row.question)}</pre></div>{reference}{sides}<ul>{reasons}</ul></section>"
    )


def _answer(case: Case, side: object, number: int) -> str:
    row = case.new[number] if side == "new" else case.old[number]
    return row.answer if row.answer is not None else f"– ({row.skipped})"


def _reason(case: Case, ask: Ask, said: Judgement) -> str:
    again = f", repeat {ask.repeat + 1}" if ask.repeat else ""
    if ask.kind == "score":
        what, verdict = f"{ask.rubric} of {case.called(ask.side)}{again}", f"{said.grade:g}" if said.grade else ""
    else:
        first, second = case.called(ask.side), case.called("old" if ask.side == "new" else "new")
        what = f"{ask.rubric}, {first} first{again}"
        verdict = {"A": first, "B": second, "tie": "tie", None: ""}[said.choice]
    shown = (
        f"<b>{html.escape(verdict)}</b>" if said.fault is None else f"<b class='unread'>{html.escape(said.fault)}</b>"
    )
    return f"{html.escape(what)}: {shown} {html.escape(said.reason)}"


def _pair_kind(number: int, found: Findings) -> str:
    """The ends of a pair by its rubrics, as classes of its section."""
    ends: Mapping[str, str] = {
        rubric: met[number].outcome or "unread" for rubric, met in found.met.items() if number in met
    }
    return " ".join(dict.fromkeys(ends.values()))


def _grade_kind(said: Sequence[tuple[Ask, Judgement]]) -> str:
    """The grades of the first model as classes of a section."""
    grades = [each.grade for ask, each in said if ask.side == "new" and ask.kind == "score"]
    names = [
        "unread" if grade is None else "low" if grade < 4 else "high" if grade >= 7 else "middle" for grade in grades
    ]
    return " ".join(dict.fromkeys(names))
