"""Conversations of `burnish chat` in files, in the shape that Burnish trains on."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.data.export import to_openai
from burnish.data.iterate import Tally, iter_samples
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError

if TYPE_CHECKING:
    from burnish.generate.reply import Speaker

ENDINGS = (".jsonl", ".json")


def save_conversation(speaker: Speaker, name: str) -> str:
    """Add a conversation to a file of openai messages, one row a line; returns a line that says so.

    The system message that the template adds by itself is written too. Answers that were stopped or cut off get the
    weight 0: they are read, and not learned from.

    Raises:
        BurnishError: there is no answer to save, or the file cannot be written.
    """
    path = _path(name, "/save FILE.jsonl")
    if path.suffix != ".jsonl":
        raise BurnishError("conversations are saved as lines of JSON", at=str(path), fix="name a file.jsonl")
    turns = tuple(speaker.turns)
    if not any(turn.role == "assistant" and turn.weight for turn in turns):
        raise BurnishError(
            "there is no whole answer to save yet", fix="ask something first, or /retry what was cut off"
        )
    template = getattr(speaker, "template", None)
    system = template.default_system if template else None
    if system and turns[0].role != "system":
        turns = (Turn("system", system), *turns)
    line = json.dumps(to_openai(Conversation(turns)), ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.is_file() else b""
        with path.open("ab") as file:
            file.write((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode("utf-8"))
    except OSError as error:
        raise BurnishError(f"the conversation was not saved: {error.strerror or error}", at=str(path)) from error
    cut = sum(turn.role == "assistant" and not turn.weight for turn in turns)
    note = f"; {cut} unfinished answer{'s' * (cut != 1)} in it will not be learned from" if cut else ""
    return f"(saved as row {len(before.splitlines())} of {path}{note})"


def load_conversation(words: str) -> tuple[list[Turn], str]:
    """A conversation out of any file that Burnish can train on, and a line that says which.

    Args:
        words: the file, and perhaps the number of a row in it, from 0; without one it is the last.
    Raises:
        BurnishError: there is no such file or row, or it holds no conversation.
    """
    name, row = words, None
    head, _, tail = words.rpartition(" ")
    if head and tail.isdigit() and not Path(words).expanduser().is_file():
        name, row = head, int(tail)
    path = _path(name, "/load FILE [ROW]")
    if not path.exists():
        raise BurnishError("there is no such file", at=str(path))
    found = None
    tally = Tally()
    for sample in iter_samples([str(path)], Path(), on_bad_row="report", tally=tally):
        if row is None or sample.row == row:
            found = sample
    if found is None or not isinstance(found.record, Conversation):
        reasons = "; ".join(f"row {bad.row}: {bad.reason}" for bad in islice(tally.bad, 3))
        raise BurnishError(
            "there is no conversation in this file" if row is None else f"there is no conversation in row {row}",
            at=str(path),
            fix=reasons or f"it has {tally.rows} rows, which count from 0",
        )
    tools = "; its tools are left out" if found.record.tools else ""
    turns = [replace(turn) for turn in found.record.turns]
    return turns, f"(row {found.row} of {path}: {len(turns)} turns{tools})"


def _path(words: str, usage: str) -> Path:
    try:
        parts = shlex.split(words)
    except ValueError:
        parts = [words]
    name = parts[0] if len(parts) == 1 else words
    if not name:
        raise BurnishError("no file is named", fix=usage)
    return Path(name).expanduser()
