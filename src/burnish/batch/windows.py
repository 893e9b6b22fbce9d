"""Documents one after another, cut into windows of equal width."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from burnish.batch.chunks import example_of
from burnish.batch.store import Origin, Selection
from burnish.template import Example


def window_starts(tokens: int, width: int) -> np.ndarray:
    """Where windows over so many tokens begin, [N] int64: the last is shorter; one of a single token is left out."""
    return np.arange(tokens // width + (tokens % width > 1), dtype=np.int64) * width


class Windows(Sequence[Example]):
    """Documents one after another, cut every `width` tokens: a window may hold the end of one and the next.

    The last window is shorter; one of a single token is left out. Every token is trained.
    """

    def __init__(self, documents: Selection, width: int) -> None:
        self.documents, self.width = documents, width
        self._starts = np.concatenate([[0], np.cumsum(documents.lengths)]).astype(np.int64)
        self._begins = window_starts(int(self._starts[-1]), width)

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._begins[index])
        end = min(start + self.width, int(self._starts[-1]))
        document = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts: list[np.ndarray] = []
        while start < end:
            ids = self.documents.base.ids(int(self.documents.numbers[document]))
            begin = start - int(self._starts[document])
            parts.append(ids[begin : begin + end - start])
            start += len(parts[-1])
            document += 1
        ids = np.concatenate(parts)
        return example_of(ids, np.ones(len(ids), dtype=bool), None)

    def origin(self, index: int) -> Origin:
        """Where the document came from in which a window begins."""
        return self.documents.origin(int(self._first[index]))

    def origins(self, index: int) -> list[Origin]:
        """Where all documents came from of which a window holds a part, each place once."""
        end = min(int(self._begins[index]) + self.width, int(self._starts[-1]))
        last = int(np.searchsorted(self._starts, end, side="left"))
        return list(dict.fromkeys(self.documents.origin(number) for number in range(int(self._first[index]), last)))

    @cached_property
    def _first(self) -> np.ndarray:
        """The document in which each window begins, [N] int64."""
        return np.searchsorted(self._starts, self._begins, side="right") - 1

    @cached_property
    def datasets(self) -> np.ndarray:
        """The number of the dataset of the document in which each window begins, [N] int64."""
        return self.documents.datasets[self._first]

    @property
    def names(self) -> list[str]:
        return self.documents.names

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.minimum(self._begins + self.width, self._starts[-1]) - self._begins

    @cached_property
    def supervised(self) -> np.ndarray:
        return self.lengths - 1

    @property
    def rows(self) -> int:
        return self.documents.rows
