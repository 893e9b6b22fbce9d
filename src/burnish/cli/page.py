"""One self-contained HTML page: the tokens of samples, coloured by label, readable on a phone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from burnish.data.records import Sample
from burnish.errors import BurnishError
from burnish.template import ChatTemplate, Example

_STYLE = """
:root { color-scheme: light dark; --trained: #bfe8c5; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --trained: #1f5d2b; } }
body { font: 16px/1.55 system-ui, "Noto Sans SC", sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid var(--line); padding: .8rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.6 ui-monospace, monospace; margin: .4rem 0; }
.t { background: var(--trained); border-radius: 3px; box-shadow: 0 0 0 1px #8883; }
.p { opacity: .65; }
small { opacity: .7; }
"""


def write_page(path: Path, pairs: Sequence[tuple[Sample, Example]], template: ChatTemplate, title: str) -> int:
    """Write the page; returns the number of samples on it."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(pairs)} samples, template <code>{html.escape(template.name)}</code>. ",
        "<span class='t'>Marked tokens</span> are trained, the others are only read. Point at a token for its id.</p>",
    ]
    for sample, example in pairs:
        parts.append(
            f"<section><small>{html.escape(sample.dataset)}, row {sample.row} · {len(example.input_ids)} tokens, "
            f"{example.supervised} trained</small><pre>"
        )
        for token, label in zip(example.input_ids, example.labels, strict=True):
            text = html.escape(template.decode([token], special=True))
            parts.append(f"<span class='{'p' if label == -100 else 't'}' title='{token}'>{text}</span>")
        parts.append("</pre></section>")
    parts.append("</html>")
    try:
        path.write_text("".join(parts), encoding="utf-8")
    except OSError as error:
        raise BurnishError(
            f"the page cannot be written: {error.strerror}", at=str(path), fix="name a file in a folder that is there"
        ) from error
    return len(pairs)
