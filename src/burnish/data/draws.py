"""Rows of a dataset that are drawn at random (`num_samples`), read where they lie.

Only usable rows are drawn, so all of them are gone through once to find those that are not; what was found is kept in
the cache. From then on a draw is a row of a file, as any other.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from burnish import log
from burnish.cache import recall, remember
from burnish.data.corpus import LANE_SHARE, Corpus, Undivided
from burnish.data.iterate import Placed, Tally, converted
from burnish.data.load import CONVERSION_VERSION
from burnish.data.readers import rows_if_told
from burnish.data.records import Sample
from burnish.data.split import choose
from burnish.data.stretches import Stretch
from burnish.errors import DataError

FAR_ROWS = 10_000
"""Rows that are passed over, where none of so many is drawn."""
Census = list[tuple[int, list[int]]]
"""Of each shard: how many rows it has, and which of them cannot be used, by their numbers in the file."""


class Draws:
    """The drawn rows of a corpus of one dataset, in the order in which they lie; one that was drawn twice comes twice.

    Raises:
        DataError: as `iter_samples`, for any row of the dataset.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.begin = 0  # of each pass; what lies before it is held out
        self._draw()

    def read(self, lane: int = 0, lanes: int = 1, cursor: Mapping[str, Any] | None = None) -> DrawsReader:
        """Begin a pass over a lane, or go on with one.

        Args:
            cursor: that of an earlier reader of this lane.
        Raises:
            Undivided: as `divide`.
        """
        return DrawsReader(self, self.divide(lanes)[lane], 0 if cursor is None else cursor["taken"])

    def divide(self, lanes: int) -> list[range]:
        """The draws of each lane, by number: as many in each, as they lie beside each other.

        Raises:
            Undivided: there are too few of them.
        """
        count = len(self.rows) - self.begin
        edges = [self.begin + count * lane // lanes for lane in range(lanes + 1)]
        found = [range(edges[lane], edges[lane + 1]) for lane in range(lanes)]
        if min(map(len, found)) < LANE_SHARE * max(map(len, found)):
            raise Undivided(f"{count} drawn rows make no even lanes")
        return found

    def hold_out(self, samples: DrawsReader, count: int) -> None:
        """Leave all up to the cursor of `samples` out of all passes from now on, and all draws of the same row."""
        self.begin = samples.cursor["taken"]
        while 0 < self.begin < len(self.rows) and self._place(self.begin) == self._place(self.begin - 1):
            self.begin += 1

    def _place(self, draw: int) -> tuple[int, int]:
        """The shard and row of a draw."""
        return bisect_right(self.ends, draw), self.rows[draw]

    def _draw(self) -> None:
        """Draw, and note the row of each draw, and how many draws there are up to the end of each shard."""
        corpus, spec = self.corpus, self.corpus.specs[0]
        assert spec.num_samples is not None
        census = self._census()
        usable = list(accumulate(rows - len(bad) for rows, bad in census))
        drawn = choose(usable[-1], spec.num_samples, corpus.options.seed, spec.name)[: corpus.options.max_samples]
        drawn.sort()
        self.ends = [bisect_left(drawn, end) for end in usable]
        self.rows = array("q")
        for first, last, before, shard, (_, bad) in zip(
            [0, *self.ends], self.ends, [0, *usable], corpus.shards, census, strict=False
        ):
            usable_before = [row - nth for nth, row in enumerate(bad)]  # as if it could be used
            for position in drawn[first:last]:
                row = position - before + shard.stretch.start
                self.rows.append(row + bisect_right(usable_before, row))

    def _census(self) -> Census:
        """How many rows there are, and which of them cannot be used; from the cache if nothing changed since."""
        corpus = self.corpus
        files = [(str(path), *shard.stretch[1:]) for shard in corpus.shards for path in [shard.stretch.file.resolve()]]
        ages = [(about.st_size, about.st_mtime_ns) for shard in corpus.shards for about in [shard.stretch.file.stat()]]
        spec = replace(corpus.opened(0)[0], name="", num_samples=None)  # which change none of it
        known = [CONVERSION_VERSION, corpus.options.stage, spec.identity(), files, ages]
        key = f"usable-{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]}"
        held = recall(key)
        if held is None or corpus.options.on_bad_row == "error":
            held = self._count()
            remember(key, held)
        return [(rows, bad) for rows, bad in held]

    def _count(self) -> Census:
        """Convert all rows. Raises DataError where too many of them are bad."""
        spec, seen = self.corpus.opened(0)
        log.say(f"{spec.name}: its usable rows are counted, as num_samples draws from all of them")
        counts, bad = [0] * len(self.corpus.shards), [list[int]() for _ in self.corpus.shards]
        at = 0

        def rows() -> Iterator[Placed]:
            nonlocal at
            for at, shard in enumerate(self.corpus.shards):
                for row, value in shard.stretch.rows([]):
                    counts[at] += 1
                    bad[at].append(row)
                    yield shard.stretch.file, row, value

        for _ in converted(spec, rows(), self.corpus.options, Tally(), seen, whole=True):
            bad[at].pop()  # a row that becomes a sample
        return list(zip(counts, bad, strict=True))


class DrawsReader(Iterator[Sample]):
    """The samples of some draws in their order; `cursor` is the place after the last one that was taken."""

    def __init__(self, draws: Draws, share: range, taken: int) -> None:
        self.draws, self.share, self._taken = draws, share, taken
        corpus = draws.corpus
        spec, seen = corpus.opened(0)
        rest = share[taken:]
        self._samples: Iterator[Sample] = iter(())  # no rows at all would be an error
        if rest:
            self._samples = converted(spec, self._rows(rest), corpus.options, Tally(), seen, whole=False)

    def __next__(self) -> Sample:
        return next(self._samples)

    @property
    def cursor(self) -> dict[str, Any]:
        """How many draws of this lane were taken, ready for JSON."""
        return {"taken": self._taken}

    def _rows(self, share: range) -> Iterator[Placed]:
        draws = self.draws
        for number, (first, last) in enumerate(pairwise([0, *draws.ends])):
            wanted = draws.rows[max(first, share.start) : min(last, share.stop)]
            stretch = draws.corpus.shards[number].stretch
            for near in _apart(wanted, stretch.file):
                for row, value in _picked(stretch, near):
                    self._taken += 1
                    yield stretch.file, row, value


def _apart(rows: array[int], file: Path) -> Iterator[array[int]]:
    """Rows of a file in runs that are read through; between them lie many rows, which are passed over unread.

    That is only done in files in which any row is found without reading those before it.
    """
    cuts = [place for place in range(1, len(rows)) if rows[place] - rows[place - 1] > FAR_ROWS]
    if cuts and rows_if_told(file) is None:
        cuts = []
    for first, last in pairwise([0, *cuts, len(rows)]):
        yield rows[first:last]


def _picked(stretch: Stretch, wanted: array[int]) -> Iterator[tuple[int, Any]]:
    """Some rows of a stretch, in their order; one that is wanted twice comes twice."""
    at = 0
    for row, value in stretch.rows([], wanted[0]) if wanted else ():
        while at < len(wanted) and wanted[at] == row:
            at += 1
            yield row, value
        if at == len(wanted):
            return
    if wanted:
        raise DataError(
            f"row {wanted[at]} was drawn and is not there",
            at=str(stretch.file),
            fix="the file was changed while it was read; start the run again",
        )
