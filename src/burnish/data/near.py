"""Rows that are nearly the same, found with MinHash: memory for each row is a few hundred bytes, however long it is.

The words of a row are taken in threes. Two rows' smallest hashes of these agree as often as the rows share their
triples (Broder 1997, "On the resemblance and containment of documents"). Rows whose hashes agree in one of several
bands are compared with all of them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import numpy as np

HASHES, BAND = 64, 4
"""Hashes of a row, and how many of them must agree for a comparison: of rows that share 85%, 99.99% are compared."""
SHARE = 0.85
MOST_ROWS = 500_000
"""Rows that are kept to be compared, 256 bytes each."""
_FEWEST = 12
_BLOCK = 4096
_WORD = re.compile(r"[\u3041-\u30ff\u3400-\u9fff]|[^\W\u3041-\u30ff\u3400-\u9fff]+")


class NearDuplicates:
    """Gathers what rows say and then names those that say nearly the same as an earlier one.

    Rows of fewer than twelve different triples of words are left out: short answers are alike without harm.
    """

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self.most_rows = most_rows
        self.left_out = 0
        """Rows beyond `most_rows`, which were not compared."""
        rng = np.random.default_rng(0)
        self._times = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._plus = rng.integers(0, 1 << 63, HASHES, dtype=np.uint64)
        self._blocks: list[np.ndarray] = []
        self._numbers: list[int] = []

    def add(self, number: int, text: str) -> None:
        """Take in a row's text under a number of the caller's."""
        words = _WORD.findall(text.casefold())
        triples = {zlib.crc32(" ".join(words[at : at + 3]).encode("utf-8", "replace")) for at in range(len(words) - 2)}
        if len(triples) < _FEWEST:
            return
        if len(self._numbers) >= self.most_rows:
            self.left_out += 1
            return
        hashed = np.fromiter(triples, dtype=np.uint64, count=len(triples))
        place = len(self._numbers) % _BLOCK
        if not place:
            self._blocks.append(np.empty((_BLOCK, HASHES), dtype=np.uint32))
        # multiply, add and keep the upper half: Dietzfelbinger et al. 1997, "A reliable randomized algorithm"
        smallest = (hashed[:, None] * self._times + self._plus).min(axis=0)
        self._blocks[-1][place] = smallest >> np.uint64(32)
        self._numbers.append(number)

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        """Numbers of a row and of the first earlier one that it nearly repeats, with the share they agree in."""
        if not self._numbers:
            return
        rows = np.concatenate(self._blocks)[: len(self._numbers)]
        earlier = np.full(len(rows), -1, dtype=np.int64)
        agreed = np.zeros(len(rows))
        for start in range(0, HASHES, BAND):
            keys = np.ascontiguousarray(rows[:, start : start + BAND]).view(f"V{4 * BAND}").reshape(-1)
            _, first, group = np.unique(keys, return_index=True, return_inverse=True)
            other = first[group.reshape(-1)]  # the first row with the same band
            found = np.flatnonzero((other < np.arange(len(rows))) & (earlier < 0))
            for at in np.array_split(found, len(found) // _BLOCK + 1):  # in parts, so that it takes little memory
                share = (rows[at] == rows[other[at]]).mean(axis=1)
                same = share >= SHARE
                earlier[at[same]], agreed[at[same]] = other[at[same]], share[same]
        for place in np.flatnonzero(earlier >= 0).tolist():
            yield self._numbers[place], self._numbers[int(earlier[place])], float(agreed[place])
