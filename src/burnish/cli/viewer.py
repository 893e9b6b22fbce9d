"""Rows of tokens on the terminal: what is trained in colour, and for the rest the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from burnish import log

if TYPE_CHECKING:
    from burnish.template import ChatTemplate
    from burnish.template.explain import Stretch

STYLES = {
    "answer": "black on green",
    "stop": "black on yellow",
    "asked for": "black on cyan",
    "text": "black on green",
    "template": "dim",
    "system": "magenta",
    "tools": "blue",
    "user": "",
    "tool": "cyan",
    "earlier": "yellow",
    "weightless": "strike",
    "after": "dim red",
    "prompt": "",
    "cut": "dim",
}
_LINES = 14


def show_row(template: ChatTemplate, stretches: Sequence[Stretch], head: str) -> None:
    """Print one row: its text, then the stretches with their reasons."""
    from rich.text import Text

    out = log.console()
    out.print(Text(head, style="bold"))
    text = Text()
    before = False
    for stretch in stretches:
        if not out.is_terminal and stretch.trained != before:
            text.append("⟦" if stretch.trained else "⟧")
        text.append(template.decode(stretch.ids, special=True), style=STYLES[stretch.reason])
        before = stretch.trained
    if before and not out.is_terminal:
        text.append("⟧")
    out.print(text)
    out.print()
    start = 0
    for number, stretch in enumerate(stretches):
        if number == _LINES:
            out.print(Text(f"  … and {len(stretches) - number} more; --html shows all", style="dim"))
            break
        end = start + len(stretch.ids)
        words = template.decode(stretch.ids, special=True).replace("\n", "⏎")
        words = words if len(words) <= 40 else f"{words[:26]} … {words[-10:]}"
        line = Text(f"  {start:>5}–{end - 1:<5} {'trained' if stretch.trained else 'masked':<8}")
        line.append(f"{stretch.why.split(':')[0]:<42} ", style="" if stretch.trained else "dim")
        line.append(words, style=STYLES[stretch.reason])
        line.no_wrap = True
        line.overflow = "ellipsis"
        out.print(line)
        start = end
    out.print()


def show_legend(reasons: Sequence[str]) -> None:
    """Say what the colours mean, for those that were used."""
    from rich.text import Text

    from burnish.template.explain import MASKED, TRAINED

    out = log.console()
    if not out.is_terminal:
        out.print("Trained tokens stand between ⟦ and ⟧; the rest is only read.")
        return
    line = Text()
    for reason in (key for key in (*TRAINED, *MASKED) if key in reasons):
        line.append(f" {(TRAINED.get(reason) or MASKED[reason]).split(':')[0]} ", style=STYLES[reason])
        line.append("  ")
    out.print(line)
