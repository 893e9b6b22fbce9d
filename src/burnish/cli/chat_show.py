"""Answers on the terminal as they come: thoughts dimmed, figures below, two models side by side."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from burnish import log
from burnish.generate.thought import ThoughtMarker

if TYPE_CHECKING:
    from rich.console import RenderableType

    from burnish.generate.reply import Reply

WIDE = 100
"""Columns from which on two answers stand side by side."""
_DIM, _PLAIN = "\033[2m", "\033[22m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EMPTY = "(the model ended its answer at once)"


def harmless(text: str) -> str:
    """Text without control characters: a model must not be able to steer the terminal."""
    return _CONTROL.sub(lambda match: "" if match[0] == "\r" else "\ufffd", text)


class Writer:
    """Writes an answer piece by piece; on a terminal its thought is dim."""

    def __init__(self, reply: Reply, out: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.coloured = self.out.isatty()
        self.marker = ThoughtMarker(reply.thinking) if reply.keeps_thoughts else None

    def write(self, text: str) -> None:
        """Show a piece."""
        self._show(self.marker.push(text) if self.marker else [(text, False)])

    def finish(self) -> None:
        """Show what was held back."""
        self._show(self.marker.finish() if self.marker else [])

    def _show(self, parts: Sequence[tuple[str, bool]]) -> None:
        for text, thought in parts:
            if self.coloured:
                text = harmless(text)
                text = f"{_DIM}{text}{_PLAIN}" if thought else text
            self.out.write(text)
        self.out.flush()


def show(reply: Reply) -> None:
    """Show an answer while it is given; Ctrl-C stops it."""
    writer = Writer(reply)
    try:
        for piece in reply:
            writer.write(piece)
    except KeyboardInterrupt:
        reply.interrupted = True
        reply.close()
    finally:
        writer.finish()
    if not reply.text:
        print(EMPTY if reply.ending != "cancelled" else "", end="")
    print()


def figures(reply: Reply) -> str:
    """Tokens, speed, and how the answer ended if not by itself."""
    words = [f"{reply.tokens} token{'s' * (reply.tokens != 1)}", f"{reply.tokens_per_second:.1f} tokens/s"]
    if reply.ending == "length":
        words.append("cut off at its limit")
    if reply.ending == "cancelled":
        words.append("stopped")
    return f"[{' · '.join(words)}]"


def show_figures(reply: Reply) -> None:
    """Print the figures below an answer: dim on a terminal, on stderr where stdout goes elsewhere."""
    if sys.stdout.isatty():
        print(f"{_DIM}{figures(reply)}{_PLAIN}")
    else:
        print(figures(reply), file=sys.stderr)


def is_wide() -> bool:
    """Whether there is a terminal with room for two columns."""
    return sys.stdout.isatty() and shutil.get_terminal_size().columns >= WIDE


class Columns:
    """Two answers beside each other, the second one after the first, redrawn as they come."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.titles = list(titles)
        self.replies: list[Reply] = []

    def __rich__(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(expand=True, show_lines=False)
        for title in self.titles:
            table.add_column(Text(title), overflow="fold", ratio=1)
        cells = [_coloured(reply) for reply in self.replies]
        cells += [Text("…", style="dim")] * (len(self.titles) - len(cells))
        table.add_row(*cells)
        table.add_row(*[Text(figures(each) if each.ending else "", style="dim") for each in self.replies])
        return table

    def follow(self, reply: Reply) -> None:
        """Show one more answer while it is given; Ctrl-C stops it."""
        from rich.live import Live

        self.replies.append(reply)
        with Live(self, console=log.console(), transient=True, refresh_per_second=8, redirect_stdout=False):
            try:
                for _ in reply:
                    pass
            except KeyboardInterrupt:
                reply.interrupted = True
                reply.close()

    def end(self) -> None:
        """Print both answers whole: what moves on the screen is cut at its height."""
        log.console().print(self, soft_wrap=False)


def _coloured(reply: Reply) -> RenderableType:
    from rich.text import Text

    text = Text()
    marker = ThoughtMarker(reply.thinking)
    parts = marker.push(reply.text) + marker.finish() if reply.keeps_thoughts else [(reply.text, False)]
    for piece, thought in parts:
        text.append(harmless(piece), style="dim" if thought else "")
    if not reply.text and reply.ending in ("stop", "length"):
        text.append(EMPTY, style="dim")
    return text
