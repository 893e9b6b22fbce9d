"""Where the lines of a text file begin, so that a large one is read from any row on, and divided by rows.

Errors name the line and the row, so whoever begins in the middle must know how many lie before. A file is gone through
once for that; nothing of it is parsed, and the places of some of its lines are kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from burnish import log
from burnish.cache import recall, remember
from burnish.data.text import COMPRESSIONS, START, Mark, open_bytes

SPACING_BYTES = 1 << 20
"""As near to each other are the lines whose places are kept; in a file of many gigabytes they are further apart."""
_MOST_MARKS = 4096
_SAMPLE_BYTES = 1 << 16
_LARGE_BYTES = 1 << 30
_VERSION = 1
"""Raise this when lines are counted in another way."""


class Lines(NamedTuple):
    """The rows of a file, which are its lines that are not blank, and places in it: the first one is its start."""

    rows: int
    marks: list[Mark]

    def before(self, row: int) -> Mark:
        """The last of the places that has at most so many rows before it."""
        return self.marks[bisect_right(self.marks, row, key=lambda mark: mark.rows) - 1]


def lines_of(path: Path) -> Lines | None:
    """The lines of a file; None where it is compressed or not UTF-8, so that it can only be read from its start.

    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix.lower() in COMPRESSIONS:
        return None
    about = os.stat(path)
    if about.st_size < SPACING_BYTES:
        return _count(path, about.st_size)
    return _known(path.resolve(), about.st_size, about.st_mtime_ns)


def mark_before(path: Path, row: int) -> Mark:
    """A place in a file that is near to a row and not behind it.

    Where the lines of the file were not counted before, they are now, up to this row.
    """
    if not row or path.suffix.lower() in COMPRESSIONS or (size := os.stat(path).st_size) < SPACING_BYTES:
        return START
    held = recall(_key(path.resolve(), size, os.stat(path).st_mtime_ns))
    found = _unpacked(held) if held else _count(path, size, row)
    return found.before(row) if found else START


@lru_cache(maxsize=256)
def _known(path: Path, size: int, mtime_ns: int) -> Lines | None:
    """The lines of a large file, from the cache where they were counted before."""
    key = _key(path, size, mtime_ns)
    held = recall(key)
    if held:
        return _unpacked(held)
    if size > _LARGE_BYTES:
        log.note(f"{path.name}: its lines are counted ({size / 1e9:.1f} GB); the count is kept in the cache")
    found = _count(path, size)
    remember(key, [found.rows, found.marks] if found else [None, []])
    return found


def _key(path: Path, size: int, mtime_ns: int) -> str:
    """What a file is known by: where it lies, its size and age, and a part of its content."""
    digest = hashlib.sha256(json.dumps([_VERSION, str(path), size, mtime_ns]).encode())
    with open_bytes(path) as stream:
        for place in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
            stream.seek(place)
            digest.update(stream.read(_SAMPLE_BYTES))
    return f"lines-{digest.hexdigest()[:32]}"


def _unpacked(held: list[object]) -> Lines | None:
    rows, marks = held
    if not isinstance(rows, int) or not isinstance(marks, list):
        return None
    return Lines(rows, [Mark(*mark) for mark in marks])


def _count(path: Path, size: int, enough_rows: int | None = None) -> Lines | None:
    """Go through the lines of a file, or those up to a row; None where they are not UTF-8."""
    spacing = max(SPACING_BYTES, size // _MOST_MARKS)
    at, marks = START, [START]
    parts: list[bytes] = []
    with open_bytes(path) as stream:
        while enough_rows is None or at.rows <= enough_rows:
            piece = stream.read(SPACING_BYTES)
            cut = piece.rfind(b"\n") + 1
            if piece and not cut:
                parts.append(piece)
                continue
            block = b"".join([*parts, piece[:cut]])
            if not block:
                break
            after = _after(at, block)
            if after is None:
                return None
            at, parts = after, [piece[cut:]] if cut else []
            if at.byte >= marks[-1].byte + spacing and piece:
                marks.append(at)
    return Lines(at.rows, marks)


def _after(at: Mark, block: bytes) -> Mark | None:
    """The place after some whole lines; None where they are not UTF-8."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = (text if at.byte else text.removeprefix("\ufeff")).split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last newline
    blank = lines.count("") + sum(map(str.isspace, lines))
    plain = at.ascii and text.isascii()
    return Mark(at.byte + len(block), at.lines + len(lines), at.rows + len(lines) - blank, plain)
