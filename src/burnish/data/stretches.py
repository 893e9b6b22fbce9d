"""Which rows of which files a dataset is: whole files, or parts of them where its split is a slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from burnish.data.readers import read_rows


class Stretch(NamedTuple):
    """Rows of a file that lie side by side: from `start` up to, but not with, `stop`; None: up to its end."""

    file: Path
    start: int = 0
    stop: int | None = None

    def rows(self, notes: list[str], start: int = 0, *, go_on: bool = False) -> Iterator[tuple[int, Any]]:
        """The rows, each with its number in the file; the arguments are those of `read_rows`."""
        first = max(start, self.start)
        if self.stop is not None and first >= self.stop:
            return
        rows = read_rows(self.file, notes, first, go_on=go_on)
        for number, row in enumerate(rows, start=first):
            yield number, row
            if number + 1 == self.stop:  # before the next one is read
                return


def files_of(stretches: Iterable[Stretch]) -> list[Path]:
    """The files in which stretches lie, each once."""
    return list(dict.fromkeys(stretch.file for stretch in stretches))


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same rows in fewer stretches: those that go on where the one before ended are one with it."""
    found: list[Stretch] = []
    for stretch in stretches:
        if found and found[-1].file == stretch.file and found[-1].stop == stretch.start:
            found[-1] = found[-1]._replace(stop=stretch.stop)
        else:
            found.append(stretch)
    return found
