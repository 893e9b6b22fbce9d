"""One lane of streamed data: its samples, a block at a time, from any place that an earlier run stopped at.

The samples of a pass over a lane are cut into blocks of `buffer_size`. A block is tokenized, packed if asked for, and
shuffled by itself; the blocks stay in the order of the data. The rows of a lane are so a function of the seed and of
the place in its data alone, and a checkpoint needs to keep no more than that place.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Protocol

import numpy as np

from burnish.batch.chunks import LabelOptions, MakeChunk, example_of
from burnish.batch.plan import packed_units
from burnish.batch.store import Origin
from burnish.batch.windows import window_starts
from burnish.batch.workers import make_chunks
from burnish.data.records import Sample
from burnish.errors import DataError
from burnish.template import ChatTemplate, Example

Position = dict[str, Any]
"""Where a lane or a stream stands, ready for JSON."""


class Samples(Protocol):
    """The samples of a pass; `cursor` is where to go on after the last one that was taken."""

    @property
    def cursor(self) -> Position: ...

    def __next__(self) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...


class Source(Protocol):
    """What samples are read from, such as `data.corpus.Corpus`: the same ones in the same order each time."""

    def read(self, lane: int = 0, lanes: int = 1, cursor: Position | None = None, epoch: int = 0) -> Samples:
        """Begin the pass of this number over a lane, or go on with it where a cursor points."""
        ...

    def divide(self, lanes: int) -> Sequence[Any]:
        """What each lane holds. Raises Undivided where there cannot be so many."""
        ...

    def hold_out(self, samples: Any, count: int) -> None:
        """Leave the first samples out of all passes from now on: `count` of them, which `samples` of `read` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block begins: the pass over the lane, samples taken before it, its number, its first row overall.

    `cursor`: where its first sample stands; None at the beginning of a pass.
    """

    epoch: int = 0
    taken: int = 0
    block: int = 0
    first_row: int = 0
    cursor: Position | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    place: Place
    after: Place
    examples: list[Example]
    datasets: list[str]  # of each example
    rows: list[list[int]]
    sources: list[tuple[str, Origin]]  # of each example, its record and where that came from, if the stage keeps them

    @property
    def end(self) -> int:
        return self.place.first_row + len(self.rows)


@dataclass(frozen=True)
class StreamOptions:
    """How blocks become rows. `pack`: "no", "whole" documents into rows, or "windows" over all of them.

    `unit`: examples a sample becomes, which stay side by side.
    """

    block_samples: int
    cutoff_len: int
    pack: str = "no"
    shuffle: bool = True
    seed: int = 42
    workers: int = 1
    unit: int = 1


@dataclass(frozen=True)
class Preparing:
    """How samples become examples, as in `workers.make_chunks`."""

    template: ChatTemplate
    labels: LabelOptions
    make: MakeChunk
    options: StreamOptions


class Lane:
    """The rows of one lane, pass after pass.

    Args:
        number, lanes: which one of how many it is.
        position: where an earlier run stopped, as `position` gave it.
    """

    def __init__(self, source: Source, preparing: Preparing, number: int, lanes: int, position: Position) -> None:
        self.source, self.preparing, self.options = source, preparing, preparing.options
        self.number, self.lanes = number, lanes
        self.samples_read = 0
        self.dropped: Counter[str] = Counter()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="burnish-stream")
        self._reader: Samples | None = None
        self._reads: Place | None = None  # where the reader stands
        self._blocks: list[_Block] = []
        self._coming: Future[_Block] | None = None
        known = {field.name: position[field.name] for field in fields(Place) if field.name in position}
        self._next = Place(**known)
        self.first_row: int = position.get("row", 0)
        self._first_epoch: int = position.get("row_epoch", 0)
        self._oldest_row = self.first_row  # blocks before it are let go

    def epoch_before(self, row: int) -> int:
        """The pass in which the row before this one lies; 0 before the first."""
        if row == self.first_row:  # it may lie in the block before the one that was sought
            return self._first_epoch
        return self._block_of(row - 1).place.epoch

    def position(self, row: int) -> Position:
        """What a checkpoint keeps if `row` is the next one: the place of its block, the row, and `epoch_before` it."""
        epoch = self.epoch_before(row)
        return {**asdict(self._block_of(row).place), "row": row, "row_epoch": epoch}

    def forget(self, row: int) -> None:
        """Let go of blocks that end before a row; where it begins one, the pass of the row before it is still asked."""
        self._oldest_row = row - 1

    def close(self) -> None:
        """Stop preparing ahead."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def numbers(self, row: int) -> list[int]:
        """The numbers of a row's examples within its block."""
        block = self._block_of(row)
        return block.rows[row - block.place.first_row]

    def example(self, row: int, number: int) -> Example:
        """An example of the block in which a row lies."""
        return self._block_of(row).examples[number]

    def dataset(self, row: int, number: int) -> str:
        """The dataset of such an example; of a window, that of the document in which it begins."""
        return self._block_of(row).datasets[number]

    def source_of(self, row: int, number: int) -> tuple[str, Origin]:
        """The record of such an example, and where it came from, in a stage that keeps records."""
        return self._block_of(row).sources[number]

    def records(self, row: int) -> list[str]:
        """The records of all examples of the block in which a row lies."""
        return [record for record, _ in self._block_of(row).sources]

    def _block_of(self, row: int) -> _Block:
        while not self._blocks or row >= self._blocks[-1].end:
            block = self._coming.result() if self._coming else self._read(self._next)
            self._next = block.after
            self._blocks = [*(one for one in self._blocks if one.end > self._oldest_row), block]
            self._coming = self._pool.submit(self._read, self._next)
        return next(block for block in self._blocks if block.place.first_row <= row < block.end)

    def _read(self, place: Place) -> _Block:
        """Read and prepare the block at a place; one that yields no row is passed over."""
        empty_passes = 0
        while True:
            samples, cursor = self._take(place)
            if not samples:
                empty_passes += 1
                if empty_passes > 1:
                    raise DataError(
                        "the stream gives no sample to train on",
                        at="dataset",
                        fix="look at the rows with `burnish data inspect`, or raise cutoff_len",
                    )
                place = Place(place.epoch + 1, 0, 0, place.first_row)
                self._reader = None
                continue
            examples, datasets, sources, dropped = self._prepare(samples)
            rows = self._rows(examples)
            if self.options.shuffle:
                lane = f"/{self.number}" if self.lanes > 1 else ""
                random.Random(f"{self.options.seed}/{place.epoch}/{place.block}{lane}").shuffle(rows)
            taken = place.taken + len(samples)
            after = Place(place.epoch, taken, place.block + 1, place.first_row + len(rows), cursor)
            self._reads = after
            self.samples_read += len(samples)
            self.dropped += dropped
            if rows or self._closed:
                return _Block(place, after, examples, datasets, rows, sources)
            place = after

    def _take(self, place: Place) -> tuple[list[Sample], Position]:
        """The samples of a block, and the cursor after them."""
        reader = self._reader
        if reader is None or self._reads != place:
            reader = self._reader = self.source.read(self.number, self.lanes, place.cursor, place.epoch)
        samples = list(islice(reader, self.options.block_samples))
        return samples, reader.cursor

    def _prepare(
        self, samples: Sequence[Sample]
    ) -> tuple[list[Example], list[str], list[tuple[str, Origin]], Counter[str]]:
        examples: list[Example] = []
        datasets: list[str] = []
        sources: list[tuple[str, Origin]] = []
        dropped: Counter[str] = Counter()
        how = self.preparing
        for chunk, part in make_chunks(samples, how.template, how.labels, how.make, self.options.workers):
            if self._closed:
                return [], [], [], dropped
            for example, owner in chunk.examples():
                examples.append(example)
                datasets.append(part[owner].dataset)
            for record, owner in zip(chunk.records or (), chunk.owners.tolist(), strict=chunk.records is not None):
                sources.append((record, (part[owner].dataset, part[owner].file, part[owner].row)))
            dropped += chunk.dropped
        if self.options.pack == "windows" and examples:
            examples, datasets = self._windows(examples, datasets)
        return examples, datasets, sources, dropped

    def _windows(self, documents: Sequence[Example], datasets: Sequence[str]) -> tuple[list[Example], list[str]]:
        ids = np.concatenate([np.asarray(document.input_ids, dtype=np.int32) for document in documents])
        ends = np.cumsum([len(document.input_ids) for document in documents])
        width = self.options.cutoff_len
        starts = window_starts(len(ids), width).tolist()
        parts = [ids[start : start + width] for start in starts]
        owners = np.searchsorted(ends, starts, side="right")
        return (
            [example_of(part, np.ones(len(part), bool), None) for part in parts],
            [datasets[owner] for owner in owners.tolist()],
        )

    def _rows(self, examples: Sequence[Example]) -> list[list[int]]:
        if self.options.pack != "whole":
            unit = self.options.unit
            return [list(range(start, start + unit)) for start in range(0, len(examples), unit)]
        lengths = [len(example.input_ids) for example in examples]
        return packed_units(lengths, self.options.cutoff_len, self.options.unit)
