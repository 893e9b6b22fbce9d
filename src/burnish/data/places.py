"""Where the rows of a text file begin, so that a large one is read from any row on, and divided by rows.

Errors name the line and the row, so whoever begins in the middle must know how many lie before. A file is gone through
once for that, and the places of some of its rows are kept in the cache. How a file is gone through is a matter of its
type: lines are not parsed, a table is read by a reader of tables, and a list by a parser.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from burnish import log
from burnish.cache import recall, remember
from burnish.data.text import COMPRESSIONS, START, Mark, open_bytes

SPACING_BYTES = 1 << 20
"""No nearer to each other are the rows whose places are kept; in a file of many gigabytes they are further apart."""
_MOST_MARKS = 4096
_SAMPLE_BYTES = 1 << 16
_LARGE_BYTES = 1 << 28
_VERSION = 2
"""Raise this when rows are counted in another way."""
Walk = Callable[[Path, Mark, int, list[str]], Iterator[Mark]]
"""`walk(path, at, step, notes)` goes through a file from one of its places on, and gives another one after each `step`
bytes or more, at last its end. `notes` gets a sentence where the file is not UTF-8."""


class Places(NamedTuple):
    """Places in a file, between its rows: its start, and some after it.

    Args:
        marks: none where the file is not UTF-8, so that it can only be read from its start.
        rows: how many were counted.
        whole: these are all; else there is more behind the last place.
    """

    marks: list[Mark]
    rows: int
    whole: bool

    def before(self, row: int) -> Mark:
        """The last of the places that has at most so many rows before it."""
        return self.marks[bisect_right(self.marks, row, key=lambda mark: mark.rows) - 1]


_FRESH = Places([START], 0, False)
_NO_PLACES = Places([], 0, True)


def rows_in(path: Path, walk: Walk, enough: int | None = None) -> int | None:
    """The rows of a file that can be begun at any of them; None where it is compressed or not UTF-8.

    Args:
        enough: do not go much farther than to this row; the result may be this number or more where there are more.
    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix.lower() in COMPRESSIONS:
        return None
    about = os.stat(path)
    if about.st_size < SPACING_BYTES:
        found = _walked(path, walk, _FRESH)
    elif enough is None:
        found = _all(path, about.st_size, about.st_mtime_ns, walk)
    else:
        found = _up_to(path, enough, walk)
    return found.rows if found.marks else None


def mark_before(path: Path, row: int, walk: Walk) -> Mark:
    """A place in a file that is near to a row and not behind it.

    Where the file was not gone through before, it is now, up to this row.
    """
    if not row or path.suffix.lower() in COMPRESSIONS or os.stat(path).st_size < SPACING_BYTES:
        return START
    found = _up_to(path, row, walk)
    return found.before(row) if found.marks else START


def _up_to(path: Path, row: int, walk: Walk) -> Places:
    """The places in a large file, at least those up to a row."""
    about = os.stat(path)
    key = _key(path.resolve(), about.st_size, about.st_mtime_ns, walk)
    found = _recalled(key)
    if not found.whole and found.rows <= row:
        found = _walked(path, walk, found, row)
        remember(key, found)
    return found


@lru_cache(maxsize=256)
def _all(path: Path, size: int, mtime_ns: int, walk: Walk) -> Places:
    """The places in a large file, from the cache where it was gone through before."""
    key = _key(path.resolve(), size, mtime_ns, walk)
    found = _recalled(key)
    if not found.whole:
        if size > _LARGE_BYTES:
            log.note(f"{path.name}: its rows are counted ({size / 1e9:.1f} GB); the count is kept in the cache")
        found = _walked(path, walk, found)
        remember(key, found)
    return found


def _key(path: Path, size: int, mtime_ns: int, walk: Walk) -> str:
    """What a file is known by: where it lies, its size and age, how it is read, and a part of its content."""
    digest = hashlib.sha256(json.dumps([_VERSION, str(path), size, mtime_ns, walk.__name__]).encode())
    with open_bytes(path) as stream:
        for place in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
            stream.seek(place)
            digest.update(stream.read(_SAMPLE_BYTES))
    return f"rows-{digest.hexdigest()[:32]}"


def _recalled(key: str) -> Places:
    held = recall(key)
    return _FRESH if held is None else Places([Mark(*mark) for mark in held[0]], *held[1:])


def _walked(path: Path, walk: Walk, known: Places, enough_rows: int | None = None) -> Places:
    """Go on through a file from the last place that is known, to its end or past so many rows."""
    spacing = max(SPACING_BYTES, os.stat(path).st_size // _MOST_MARKS)
    marks, notes = list(known.marks), list[str]()
    places = walk(path, marks[-1], SPACING_BYTES, notes)
    try:
        at, whole = next(places, marks[-1]), True
        for later in places:  # so `at` is not the end, behind which no row is
            if at.byte >= marks[-1].byte + spacing:
                marks.append(at)
            if enough_rows is not None and at.rows > enough_rows:
                whole = False
                break
            at = later
    except UnicodeDecodeError:
        return _NO_PLACES
    if not whole and at != marks[-1]:
        marks.append(at)
    return _NO_PLACES if notes else Places(marks, at.rows, whole)


def walk_lines(path: Path, at: Mark, step: int, notes: list[str]) -> Iterator[Mark]:
    """Go through the lines of a file, of which those that are not blank are rows.

    Raises:
        UnicodeDecodeError: they are not UTF-8.
    """
    parts: list[bytes] = []
    with open_bytes(path) as stream:
        stream.seek(at.byte)
        while True:
            piece = stream.read(step)
            cut = piece.rfind(b"\n") + 1
            if piece and not cut:
                parts.append(piece)
                continue
            block = b"".join([*parts, piece[:cut]])
            if not block:
                return
            at, parts = _after(at, block), [piece[cut:]] if cut else []
            yield at


def _after(at: Mark, block: bytes) -> Mark:
    """The place after some whole lines."""
    text = block.decode("utf-8")
    lines = (text if at.byte else text.removeprefix("\ufeff")).split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last newline
    blank = lines.count("") + sum(map(str.isspace, lines))
    plain = at.ascii and text.isascii()
    return Mark(at.byte + len(block), at.lines + len(lines), at.rows + len(lines) - blank, plain)
