"""One self-contained HTML page: the tokens of samples, coloured by reason, readable on a phone."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from burnish.data.records import Conversation, Sample
from burnish.errors import BurnishError
from burnish.template import ChatTemplate
from burnish.template.explain import MASKED, TRAINED, Stretch

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #fffffff5;
  --answer: #bfe8c5; --stop: #ffe08a; --asked: #b9e3f5; }
@media (prefers-color-scheme: dark) {
  :root { --answer: #1f5d2b; --stop: #6b5200; --asked: #124f66; --bar: #111111f5; } }
body { font: 16px/1.55 system-ui, "Noto Sans SC", sans-serif; max-width: 76rem; margin: 0 auto;
  padding: 1rem 1rem 4.5rem; }
section { border-top: 1px solid var(--line); padding: .8rem 0; display: grid; gap: .8rem; }
@media (min-width: 60rem) { section { grid-template-columns: 2fr 3fr; } }
section > * { min-width: 0; }
section > small { grid-column: 1 / -1; opacity: .75; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.7 ui-monospace, monospace; margin: 0; }
b.role { display: block; font-size: .75rem; text-transform: uppercase; letter-spacing: .05em; opacity: .6; }
.turn { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .6rem; padding: .35rem .6rem;
  border-left: 3px solid var(--line); }
.turn.assistant { border-color: #2e9e4a; }
i { font-style: normal; }
i:hover, i.on { outline: 1px solid currentColor; }
.answer, .text { background: var(--answer); } .stop { background: var(--stop); } .asked { background: var(--asked); }
.legend i { padding: 0 .3rem; margin-right: .4rem; border-radius: 3px; }
span, .legend { &.template, &.cut, .template, .cut { opacity: .5; } &.system, .system { color: #a33ea1; }
  &.tools, .tools { color: #2f6fd0; } &.tool, .tool { color: #0f8b8d; } &.earlier, .earlier { color: #a06a00; }
  &.weightless, .weightless { text-decoration: line-through; } &.after, .after { color: #c0392b; opacity: .8; } }
#why { position: fixed; inset: auto 0 0 0; padding: .6rem 1rem; background: var(--bar);
  border-top: 1px solid var(--line); font-size: .9rem; }
"""
_SCRIPT = """
const bar = document.getElementById('why'), rest = bar.textContent; let last;
function show(e) { const t = e.target; if (!t.dataset || t.dataset.id === undefined) return;
  if (last) last.classList.remove('on'); last = t; t.classList.add('on');
  bar.textContent = 'token ' + t.dataset.id + ' · ' + t.parentNode.dataset.why; }
addEventListener('pointerover', show); addEventListener('click', show);
"""


class Shown(NamedTuple):
    """One row of a sample: its tokens with their reasons, and which part of how many it is, or how it was judged."""

    sample: Sample
    stretches: list[Stretch]
    part: int
    parts: int
    judged: str = ""

    @property
    def head(self) -> str:
        """Where the row comes from, in words."""
        tokens = sum(len(stretch.ids) for stretch in self.stretches)
        trained = sum(len(stretch.ids) for stretch in self.stretches if stretch.trained)
        part = f" · part {self.part} of {self.parts}" if self.parts > 1 else ""
        part = f" · {self.judged}" if self.judged else part
        return f"{self.sample.dataset}, row {self.sample.row}{part} · {tokens} tokens, {trained} trained"


def write_page(path: Path, rows: Sequence[Shown], template: ChatTemplate, title: str) -> int:
    """Write the page; returns the number of rows on it."""
    used = Counter(stretch.reason for row in rows for stretch in row.stretches)
    reasons = TRAINED | MASKED
    legend = "".join(f"<i class='{_css(key)}'>{html.escape(why)}</i> " for key, why in reasons.items() if key in used)
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(rows)} rows, template <code>{html.escape(template.name)}</code>. The conversation, and beside it the "
        f"tokens as the model gets them.</p><p class='legend'>{legend}</p>",
        *(_row(row, template) for row in rows),
        "<div id='why'>Point at a token, or touch it: its id, and why it is trained or not.</div>",
        f"<script>{_SCRIPT}</script></html>",
    ]
    try:
        path.write_text("".join(parts), encoding="utf-8")
    except OSError as error:
        raise BurnishError(
            f"the page cannot be written: {error.strerror}", at=str(path), fix="name a file in a folder that is there"
        ) from error
    return len(rows)


def _css(reason: str) -> str:
    return reason.split(" ", maxsplit=1)[0]


def _row(row: Shown, template: ChatTemplate) -> str:
    head = html.escape(row.head)
    coloured = "".join(
        f"<span class='{_css(stretch.reason)}' data-why='{html.escape(stretch.why, quote=True)}'>"
        + "".join(_token(template, stretch.ids))
        + "</span>"
        for stretch in row.stretches
    )
    return f"<section><small>{head}</small><div>{_turns(row.sample)}</div><pre>{coloured}</pre></section>"


def _token(template: ChatTemplate, ids: Sequence[int]) -> list[str]:
    """A tag for each token. A character of several tokens stands in the last of them."""
    tags = []
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = template.decode(waiting, special=True)
        if text.endswith("\ufffd") and len(waiting) < 6:
            continue
        tags.append(f"<i data-id='{' '.join(map(str, waiting))}'>{html.escape(text)}</i>")
        waiting = []
    if waiting:
        tags.append(f"<i data-id='{' '.join(map(str, waiting))}'>{html.escape(template.decode(waiting))}</i>")
    return tags


def _turns(sample: Sample) -> str:
    record = sample.record
    if not isinstance(record, Conversation):
        return f"<div class='turn'>{html.escape(str(getattr(record, 'text', record)))}</div>"
    shown = []
    for turn in record.turns:
        words = html.escape(turn.content)
        if turn.reasoning:
            words = f"<small>{html.escape(turn.reasoning)}</small>\n{words}"
        for call in turn.tool_calls:
            words += f"\n→ {html.escape(call.name)} {html.escape(json.dumps(call.arguments, ensure_ascii=False))}"
        shown.append(f"<div class='turn {turn.role}'><b class='role'>{turn.role}</b>{words.strip()}</div>")
    return "".join(shown)
