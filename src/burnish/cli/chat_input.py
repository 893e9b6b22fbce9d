"""What the user says in `burnish chat`: line by line or in blocks, from a terminal or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TextIO

FENCE = '"""'
_KEPT_LINES = 1000


@dataclass(frozen=True, slots=True)
class Said:
    """One message; a `verbatim` one is no command, whatever it begins with."""

    text: str
    verbatim: bool = False


def read_message(line: Callable[[str], str]) -> Said:
    """The next message: a line, or all lines between two lines that are `\"\"\"`.

    Args:
        line: gives the next line, without its end; its argument is the prompt to show.
    Raises:
        EOFError: there is no more. A block that was opened and not closed counts as closed then.
    """
    first = line("> ")
    if first.strip() != FENCE:
        return Said(first)
    block: list[str] = []
    while True:
        try:
            following = line("… ")
        except EOFError:
            break
        if following.strip() == FENCE:
            break
        block.append(following)
    return Said("\n".join(block), verbatim=True)


def piped_lines(stream: TextIO) -> Callable[[str], str]:
    """Lines from a pipe or a file; no prompt is shown."""

    def line(_: str) -> str:
        found = stream.readline()
        if not found:
            raise EOFError
        return found.rstrip("\r\n")

    return line


def terminal_lines(history: Path) -> Callable[[str], str]:
    """Lines from the keyboard, with editing, a history that stays, and pasted text in one piece where the terminal
    tells that it is pasted.

    Args:
        history: the file with what was typed in earlier sessions; made readable by its owner alone.
    """
    try:
        import readline
    except ImportError:  # Windows has no such module; its console edits lines by itself
        return _plain_line
    readline.parse_and_bind("set enable-bracketed-paste on")
    keeps = _open_history(readline, history)

    def line(prompt: str) -> str:
        before = readline.get_current_history_length()
        found = _plain_line(prompt)
        if keeps and readline.get_current_history_length() > before:
            try:
                readline.append_history_file(1, history)
            except OSError:  # a full disk must not end a conversation; the line stays in this session's history
                readline.set_history_length(-1)
        return found

    return line


def _open_history(readline: ModuleType, history: Path) -> bool:
    """Read what was typed before; returns whether more can be kept."""
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(history, os.O_CREAT | os.O_RDWR, 0o600))
        readline.set_history_length(_KEPT_LINES)
        readline.read_history_file(history)
    except OSError:
        return False
    return True


def _plain_line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)  # stdout goes elsewhere and is to hold answers alone
    return input()
