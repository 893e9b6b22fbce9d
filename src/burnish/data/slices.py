"""Splits and slices of them, as Hugging Face writes them: `train`, `train[:10%]`, `train[100:200]+test`.

Percent are rounded to the nearest row, as `datasets` does if it is not told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.data.readers import count_rows
from burnish.data.stretches import Stretch
from burnish.errors import DataError

_PART = re.compile(
    r"(?P<split>[\w.-]+)"
    r"(?:\[(?:(?P<first>-?\d[\d_]*)(?P<first_percent>%)?)?:(?:(?P<last>-?\d[\d_]*)(?P<last_percent>%)?)?\])?",
    re.ASCII,
)
_FIX = "write a split (train), rows of it (train[100:200]), a share (train[:10%]), or several with + between them"


@dataclass(frozen=True, slots=True)
class Slice:
    """One part of a `split`: rows or percent of the split from `first` up to, but not with, `last`.

    Negative numbers count from the end; None: from the first row, up to the end.
    """

    split: str
    first: int | None = None
    last: int | None = None
    percent: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut off the split."""
        return self.first is None and self.last is None

    def bounds(self, rows: int) -> tuple[int, int]:
        """The first row, and the one after the last, of a split of so many rows.

        What lies beyond its ends is cut off; where the first is not before the last, the slice is empty.
        """
        first, last = (self._row(value, rows) for value in (self.first, self.last))
        return 0 if first is None else first, rows if last is None else last

    def _row(self, value: int | None, rows: int) -> int | None:
        if value is None:
            return None
        row = round(value * rows / 100) if self.percent else value
        return min(max(rows + row, 0) if row < 0 else row, rows)


def parse_split(text: str, at: str) -> tuple[Slice, ...]:
    """The slices that a `split` names, in its order.

    Raises:
        DataError: it is not written as a split or slice, mixes rows and percent, or asks for more than 100%.
    """
    return tuple(_parse(part.strip(), text, at) for part in text.split("+"))


def _parse(part: str, text: str, at: str) -> Slice:
    found = _PART.fullmatch(part)
    if found is None:
        raise DataError(f"'{text}' is not a split or a slice of one", at=at, fix=_FIX)
    numbers = {key: int(found[key].replace("_", "")) if found[key] else None for key in ("first", "last")}
    marks = [bool(found[f"{key}_percent"]) for key, number in numbers.items() if number is not None]
    if len(set(marks)) > 1:
        raise DataError(f"'{part}' mixes rows and percent", at=at, fix="give both ends as rows, or both as percent")
    percent = any(marks)
    if percent and any(number is not None and abs(number) > 100 for number in numbers.values()):
        raise DataError(f"'{part}' asks for more than 100%", at=at, fix="give percent from -100 to 100")
    return Slice(found["split"], numbers["first"], numbers["last"], percent)


def cut(files: Sequence[Path], part: Slice, at: str) -> list[Stretch]:
    """The rows of a split's files that a slice keeps. The rows are counted, but not made, where it is no whole split.

    Raises:
        DataError: the slice holds no row.
    """
    if part.is_whole:
        return [Stretch(file) for file in files]
    counts = [count_rows(file) for file in files]
    total = sum(counts)
    first, last = part.bounds(total)
    if first >= last:
        raise DataError(
            f"the slice of '{part.split}' holds no row: from row {first} to row {last} of {total}",
            at=at,
            fix="name a larger slice (rows count from 0, the end is not part of it)",
        )
    found, begin = [], 0
    for file, count in zip(files, counts, strict=True):
        start, stop = max(first - begin, 0), min(last - begin, count)
        if start < stop:
            found.append(Stretch(file, start, None if stop == count else stop))
        begin += count
    return found
