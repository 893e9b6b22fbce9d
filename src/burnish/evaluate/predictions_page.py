"""predictions.html: two texts of each row beside each other, with a filter; one file that needs no other."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from burnish.runs.files import write_atomically

MOST_ROWS = 2000
STYLE = """
:root { color-scheme: light dark; --line: #8884; --equal: #bfe8c5; --other: #ffe08a; --bar: #fffffff5; }
@media (prefers-color-scheme: dark) { :root { --equal: #1f5d2b; --other: #6b5200; --bar: #111111f5; } }
body { font: 16px/1.55 system-ui, "Noto Sans SC", sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem; }
form { position: sticky; top: 0; background: var(--bar); padding: .5rem 0; display: flex; flex-wrap: wrap; gap: 1rem;
  align-items: center; border-bottom: 1px solid var(--line); }
input[type=search] { font: inherit; flex: 1 1 14rem; }
section { border-top: 1px solid var(--line); padding: .8rem 0; display: grid; gap: .8rem; }
@media (min-width: 60rem) { section { grid-template-columns: 1fr 1fr; } }
section > * { min-width: 0; } small, details { grid-column: 1 / -1; opacity: .8; }
h1, p, li, small { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.6 ui-monospace, monospace; margin: 0; }
h3 { font-size: .75rem; text-transform: uppercase; letter-spacing: .05em; opacity: .6; margin: 0; }
.equal .said { background: var(--equal); } .other .said { background: var(--other); } .said { padding: .3rem .5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; } td { padding: .1rem 1rem .1rem 0; }
"""
# Filters the sections of a page by the words and the kind that a form asks for.
SCRIPT = """
const rows = [...document.querySelectorAll('section')], form = document.querySelector('form'),
  count = document.querySelector('output');
function filter() {
  const words = form.words.value.toLowerCase(), kind = form.kind.value; let shown = 0;
  for (const row of rows) {
    const fits = (!kind || row.classList.contains(kind)) && row.textContent.toLowerCase().includes(words);
    row.hidden = !fits; row.style.display = fits ? '' : 'none'; shown += fits; }
  count.textContent = shown + ' of ' + rows.length + ' rows'; }
form.addEventListener('input', filter); form.addEventListener('submit', e => e.preventDefault()); filter();
"""
KINDS = {"equal": "exact matches", "other": "others", "alone": "without a reference", "skipped": "not predicted"}
"""How rows of answers are told apart, with the words of the filter."""


class PageRow(NamedTuple):
    """One row of the page: its kind, a line about it, what was asked, and two texts, each below a title."""

    kind: str
    head: str
    prompt: str
    left: tuple[str, str]
    right: tuple[str, str]


def write_predictions_page(
    path: Path,
    rows: Sequence[PageRow],
    figures: Sequence[tuple[str, str]],
    title: str,
    kinds: Mapping[str, str],
) -> None:
    """Write the page; of very many rows the first 2000 are on it.

    Args:
        figures: names and values for the table at its head.
        kinds: of rows, with the words of the filter. `equal` and `other` have colours.
    """
    shown = rows[:MOST_ROWS]
    cut = f"<p>The first {MOST_ROWS} of {len(rows)} rows.</p>" if len(rows) > len(shown) else ""
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in figures)
    choices = "".join(f"<option value='{kind}'>{words}</option>" for kind, words in kinds.items())
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>",
        f"<table>{table}</table>{cut}<form><input type='search' name='words' placeholder='text to look for'>",
        f"<select name='kind'><option value=''>all rows</option>{choices}</select><output></output></form>",
        *map(_row, shown),
        f"<script>{SCRIPT}</script></html>",
    ]
    write_atomically(path, "".join(parts).encode("utf-8"))


def kind_of(line: Mapping[str, Any]) -> str:
    """How a row is filtered: equal, other, alone (nothing to compare with) or skipped."""
    prediction, reference = line["prediction"], line["reference"]
    if prediction is None:
        return "skipped"
    if reference is None:
        return "alone"
    return "equal" if prediction.strip() == reference.strip() else "other"


def answer_row(line: Mapping[str, Any]) -> PageRow:
    """A line of predictions.jsonl that holds an answer."""
    ending = line.get("skipped") or f"{line['tokens']} tokens, {line['finish_reason']}"
    return PageRow(
        kind_of(line),
        f"{line['dataset']}, row {line['row']} · {ending}",
        line["prompt"] or "",
        ("reference", line["reference"] or "–"),
        ("prediction", line["prediction"] or "–"),
    )


def _row(row: PageRow) -> str:
    prompt = f"<details><summary>prompt</summary><pre>{html.escape(row.prompt)}</pre></details>"
    (left, one), (right, two) = row.left, row.right
    return (
        f"<section class='{row.kind}'><small>{html.escape(row.head)}</small>{prompt}"
        f"<div><h3>{html.escape(left)}</h3><pre>{html.escape(one)}</pre></div>"
        f"<div><h3>{html.escape(right)}</h3><pre class='said'>{html.escape(two)}</pre></div></section>"
    )
