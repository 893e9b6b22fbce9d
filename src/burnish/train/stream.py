"""Training on data that is read while the run goes on: no more of it in memory than two blocks, and exact resume.

The samples of a pass over the data are cut into blocks of `buffer_size`. A block is tokenized, packed if asked for, and
shuffled by itself; the blocks stay in the order of the data. Which rows an optimizer step sees is so a function of the
seed and of the place in the data alone, and a checkpoint needs to keep no more than that place.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np

from burnish import log
from burnish.batch.chunks import LabelOptions, MakeChunk, example_of
from burnish.batch.plan import packed_units
from burnish.batch.windows import window_starts
from burnish.batch.workers import make_chunks
from burnish.data.records import Sample
from burnish.errors import DataError
from burnish.template import ChatTemplate, Example

_PART, _SAY_EVERY_S = 1000, 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block begins: the pass over the data, samples taken before it, its number, its first row overall."""

    epoch: int = 0
    taken: int = 0
    block: int = 0
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class _Block:
    place: Place
    after: Place
    examples: list[Example]
    datasets: list[str]  # of each example
    rows: list[list[int]]

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


class StreamPlan:
    """What `BatchPlan` is for data on disk: which samples each optimizer step sees, and the samples themselves.

    Args:
        start: begins a pass over the samples; the same samples in the same order each time.
        template, labels, make: how samples become examples, as in `workers.make_chunks`.
        batch_rows, accumulation, ranks: as in `BatchPlan`.
    """

    def __init__(
        self,
        start: Callable[[], Iterator[Sample]],
        template: ChatTemplate,
        labels: LabelOptions,
        make: MakeChunk,
        options: StreamOptions,
        batch_rows: int,
        accumulation: int,
        ranks: int = 1,
    ) -> None:
        self.start, self.template, self.labels, self.make, self.options = start, template, labels, make, options
        self.batch_rows, self.accumulation, self.ranks = batch_rows, accumulation, ranks
        self.samples_read = 0
        self.dropped: Counter[str] = Counter()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="burnish-stream")
        self._reader: Iterator[Sample] | None = None
        self._reads: Place | None = None  # where the reader stands
        self._blocks: list[_Block] = []
        self._coming: Future[_Block] | None = None
        self._next = Place()
        self._sought_row, self._sought_epoch = 0, 0
        self._oldest_row = 0  # blocks before it are let go

    @property
    def rows_a_step(self) -> int:
        return self.batch_rows * self.accumulation * self.ranks

    @property
    def steps_an_epoch(self) -> int:
        """Not known for a stream."""
        return 0

    @property
    def stand_in(self) -> list[int]:
        """Nothing: the steps of a stream are always full."""
        return []

    def steps_of(self, epochs: float) -> int:
        """Not known for a stream; it has `max_steps`."""
        return 1

    def epoch_at(self, step: int) -> float:
        """Passes over the data that are complete after `step` steps."""
        if not step:
            return 0.0
        row = step * self.rows_a_step - 1
        if row == self._sought_row - 1:  # it may lie in the block before the one that was sought
            return float(self._sought_epoch)
        return float(self._block_of(row).place.epoch)

    def position(self, step: int) -> dict[str, int]:
        """What a checkpoint after `step` steps keeps: the place of the block in which the next row lies.

        `row` and `row_epoch` are the next row, and the pass over the data in which the row before it lies.
        """
        row = step * self.rows_a_step
        epoch = int(self.epoch_at(step))
        return {**asdict(self._block_of(row).place), "row": row, "row_epoch": epoch}

    def seek(self, position: dict[str, int]) -> None:
        """Go to where a checkpoint left the data."""
        if self._coming is not None:
            self._coming.result()
        self._blocks, self._coming, self._reader = [], None, None
        self._next = Place(**{key: position[key] for key in asdict(self._next)})
        self._sought_row, self._sought_epoch = position.get("row", 0), position.get("row_epoch", 0)
        self._oldest_row = self._sought_row

    def close(self) -> None:
        """Stop preparing ahead."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def step(self, step: int, rank: int = 0) -> list[list[int]]:
        """The micro-batches of one optimizer step; numbers count examples within the block of their row."""
        first = step * self.rows_a_step
        self._oldest_row = first - self.rows_a_step
        rows = range(first, first + self.rows_a_step)
        micro = [rows[start : start + self.batch_rows] for start in range(0, len(rows), self.batch_rows)]
        return [[number for row in part for number in self._numbers(row)] for part in micro[rank :: self.ranks]]

    def example(self, number: int) -> Example:
        """The example behind a number that `step` gave for this step or the one before."""
        row, place = divmod(number, 1 << 20)
        return self._block_of(row).examples[place]

    def dataset(self, number: int) -> str:
        """The dataset of such an example; of a window, that of the document in which it begins."""
        row, place = divmod(number, 1 << 20)
        return self._block_of(row).datasets[place]

    def _numbers(self, row: int) -> list[int]:
        block = self._block_of(row)
        return [(row << 20) + place for place in block.rows[row - block.place.first_row]]

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
            samples = self._take(place)
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
            examples, datasets, dropped = self._prepare(samples)
            rows = self._rows(examples)
            if self.options.shuffle:
                random.Random(f"{self.options.seed}/{place.epoch}/{place.block}").shuffle(rows)
            taken = place.taken + len(samples)
            after = Place(place.epoch, taken, place.block + 1, place.first_row + len(rows))
            self._reads = after
            self.samples_read += len(samples)
            self.dropped += dropped
            if rows or self._closed:
                return _Block(place, after, examples, datasets, rows)
            place = after

    def _take(self, place: Place) -> list[Sample]:
        if self._reader is None or self._reads != place:
            self._reader = self.start()
            self._skip(self._reader, place.taken)
        return list(islice(self._reader, self.options.block_samples))

    def _skip(self, reader: Iterator[Sample], samples: int) -> None:
        """Go on to where a run stopped: samples are read and converted again, but not tokenized."""
        said = started = time.monotonic()
        for taken in range(0, samples, _PART):
            if self._closed:
                return
            for _ in islice(reader, min(_PART, samples - taken)):
                pass
            now = time.monotonic()
            if now - said > _SAY_EVERY_S:
                said, done = now, taken + _PART
                left = log.clock((now - started) / done * max(0, samples - done))
                log.say(f"reading up to where the run stopped: {done:,} of {samples:,} samples, about {left} left")

    def _prepare(self, samples: Sequence[Sample]) -> tuple[list[Example], list[str], Counter[str]]:
        examples: list[Example] = []
        datasets: list[str] = []
        dropped: Counter[str] = Counter()
        for chunk, part in make_chunks(samples, self.template, self.labels, self.make, self.options.workers):
            if self._closed:
                return [], [], dropped
            for example, owner in chunk.examples():
                examples.append(example)
                datasets.append(part[owner].dataset)
            dropped += chunk.dropped
        if self.options.pack == "windows" and examples:
            examples, datasets = self._windows(examples, datasets)
        return examples, datasets, dropped

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
