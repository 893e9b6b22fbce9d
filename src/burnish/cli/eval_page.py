"""One self-contained HTML page: two models on the same questions, the answers side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from burnish.errors import BurnishError
from burnish.evaluate.compare import Comparison, comparison_rows
from burnish.evaluate.harness import Reply

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --won: #bfe8c5; --lost: #f3c4bd; }
@media (prefers-color-scheme: dark) { :root { --won: #1f5d2b; --lost: #702a20; } }
body { font: 16px/1.55 system-ui, "Noto Sans SC", sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2rem .7rem .2rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; } summary, h1, h2, p, li, small { overflow-wrap: anywhere; }
.pair { display: grid; gap: .8rem; margin: .6rem 0; }
@media (min-width: 50rem) { .pair { grid-template-columns: 1fr 1fr; } }
.pair > div { min-width: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.6 ui-monospace, monospace; margin: 0;
  padding: .5rem; border: 1px solid var(--line); }
i { font-style: normal; padding: 0 .4rem; border-radius: 3px; }
.won { background: var(--won); } .lost { background: var(--lost); }
small { opacity: .75; }
"""
_SHOWN = 200  # of each kind on a page; what is left out is counted
_TIES = 20
_HEAD = 140  # characters of a question in its line


def write_comparison(path: Path, done: Sequence[Comparison], old: str, new: str) -> None:
    """Write the page: verdicts, figures, and each question that one model got better than the other.

    Raises:
        BurnishError: the file cannot be written.
    """
    title = f"{new} against {old}"
    verdicts = "".join(
        f"<li><b>{html.escape(each.task)}</b> {html.escape(each.key.replace(',', ', '))}"
        f"{' (what it could do before)' if each.regression else ''}: {html.escape(each.verdict)}</li>"
        for each in done
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>",
        f"<ul>{verdicts}</ul>{_table(comparison_rows(done))}",
        "<p>Both models were asked the same questions. p: how likely a difference at least as large is between two "
        "models that are equally good.</p>",
        *(_section(each, old, new) for each in done),
        "</html>",
    ]
    try:
        path.write_text("".join(parts), encoding="utf-8")
    except OSError as error:
        raise BurnishError(
            f"the page cannot be written: {error.strerror}", at=str(path), fix="name another folder with --output"
        ) from error


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _section(each: Comparison, old: str, new: str) -> str:
    places: dict[str, list[int]] = {"lost": [], "won": [], "tied": []}
    for place in range(len(each.replies)):
        places[each.outcome(place)].append(place)
    parts = [f"<h2>{html.escape(each.task)} · {html.escape(each.key.replace(',', ', '))}</h2>"]
    for kind, found in places.items():
        # Ties are a fair sample: every n-th, never chosen by what was said.
        shown = found[:_SHOWN] if kind != "tied" else found[:: max(1, len(found) // _TIES)][:_TIES]
        left = f" <small>{len(shown)} of them shown</small>" if len(shown) < len(found) else ""
        parts.append(f"<h3><i class='{kind}'>{kind}</i> {len(found)}{left}</h3>")
        parts += [_question(each, place, old, new) for place in shown]
    return "".join(parts)


def _question(each: Comparison, place: int, old: str, new: str) -> str:
    before, after = each.replies[place]
    first, second = each.scores[place]
    head = " ".join(before.prompt.split())[-_HEAD:]
    return (
        f"<details><summary>question {after.number}: …{html.escape(head)} "
        f"<small>{first:g} → {second:g}</small></summary>"
        f"<p><small>asked</small></p><pre>{html.escape(before.prompt)}</pre>"
        f"<p><small>wanted</small></p><pre>{html.escape(after.target)}</pre>"
        f"<div class='pair'>{_side(old, before)}{_side(new, after)}</div></details>"
    )


def _side(name: str, reply: Reply) -> str:
    return f"<div><small>{html.escape(name)}</small><pre>{html.escape(reply.answer)}</pre></div>"
