"""Which samples each optimizer step sees, as a pure function of the step: resume needs no saved sampler state."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Plan(Protocol):
    """Which samples each optimizer step sees, as the loop asks."""

    @property
    def rows_a_step(self) -> int:
        """Samples of an optimizer step, over all ranks."""
        ...

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps in one pass over the data; 0 where that is not known."""
        ...

    @property
    def stand_in(self) -> list[int]:
        """Samples for a rank that has no rows and must take part in a step all the same."""
        ...

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps in so many passes over the data."""
        ...

    def epoch_at(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        ...

    def position(self, step: int) -> dict[str, Any] | None:
        """What a checkpoint keeps of the place in the data; None where it follows from the step.

        Called on all processes.
        """
        ...

    def step(self, step: int, rank: int = 0) -> list[list[int]]:
        """The micro-batches of one optimizer step, as sample numbers; some may be empty."""
        ...


class SingleRows(Sequence[Sequence[int]]):
    """`[[0], [1], …]`, or with a `unit` of 2 `[[0, 1], [2, 3], …]`, without holding it."""

    def __init__(self, count: int, unit: int = 1) -> None:
        self._count, self._unit = count, unit

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return list(range(index * self._unit, (index + 1) * self._unit))


def best_fit_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Pack whole documents into rows of at most `row_tokens` tokens, longest first into the fullest row that fits.

    Returns lists of indices into `lengths`; a document longer than a row gets one of its own.
    Source: best-fit decreasing, e.g. Ding et al., Fewer Truncations Improve Language Modeling, arXiv:2404.10830.
    """
    from bisect import bisect_left, insort

    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (tokens left, row), sorted: the first that fits is the fullest
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        place = bisect_left(open_rows, (length, -1))
        if place == len(open_rows):
            row, left = len(rows), row_tokens
            rows.append([])
        else:
            left, row = open_rows.pop(place)
        rows[row].append(index)
        if left - length > 0:
            insort(open_rows, (left - length, row))
    return rows


def packed_units(lengths: Sequence[int], row_tokens: int, unit: int = 1) -> list[list[int]]:
    """`best_fit_rows` of samples that are `unit` examples each, which stay together and in order.

    Args:
        lengths: tokens of each example.
        row_tokens: of a row, for one example a sample; a row holds `unit` times as many.
    """
    whole = [sum(lengths[start : start + unit]) for start in range(0, len(lengths), unit)]
    rows = best_fit_rows(whole, unit * row_tokens)
    return rows if unit == 1 else [[unit * n + k for n in row for k in range(unit)] for row in rows]


@dataclass(frozen=True)
class BatchPlan:
    """The order of samples over a run.

    Args:
        rows: what one unit of the batch size is: `[[0], [1], …]` unpacked, several documents each when packed.
        batch_rows: rows a micro-batch holds.
        accumulation: micro-batches an optimizer step sums over, on each rank.
        ranks: processes that share the work.
        seed: decides the order of each epoch; `shuffle=False` keeps the file order.
        drop_last: leave out the rows at the end of an epoch that do not fill a step.
        lengths: tokens of each row; where they are given, the rows of a step are of like length.
    """

    rows: Sequence[Sequence[int]]
    batch_rows: int
    accumulation: int
    ranks: int = 1
    seed: int = 42
    shuffle: bool = True
    drop_last: bool = False
    lengths: Sequence[int] | None = None

    @property
    def rows_a_step(self) -> int:
        return self.batch_rows * self.accumulation * self.ranks

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps in one pass; the last one may be smaller."""
        steps = len(self.rows) / self.rows_a_step
        return max(1, math.floor(steps) if self.drop_last else math.ceil(steps))

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps in so many passes over the data."""
        return max(1, math.ceil(self.steps_an_epoch * epochs))

    def epoch_at(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return step / self.steps_an_epoch

    @property
    def stand_in(self) -> list[int]:
        """Samples for a rank that has no rows and must take part in a step all the same: those of the first row."""
        return list(self.rows[0])

    def position(self, step: int) -> None:
        """Nothing: the place in the data follows from the step."""
        return None

    def order(self, epoch: int) -> list[int]:
        """Row numbers in the order of an epoch, the same for every number of ranks."""
        order = list(range(len(self.rows)))
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order if self.lengths is None else self._grouped(order, epoch)

    def _grouped(self, order: list[int], epoch: int) -> list[int]:
        """Rows of like length side by side: each stretch of 50 steps is sorted, then its steps are mixed again.

        The very longest rows come first, so that a run that needs too much memory says so at once.
        """
        assert self.lengths is not None
        lengths, size = self.lengths, self.rows_a_step
        steps: list[list[int]] = []
        for start in range(0, len(order), 50 * size):
            stretch = sorted(order[start : start + 50 * size], key=lambda row: -lengths[row])
            parts = [stretch[place : place + size] for place in range(0, len(stretch), size)]
            whole = [part for part in parts if len(part) == size]
            if self.shuffle:
                random.Random(f"{self.seed}/{epoch}/{start}").shuffle(whole)
            steps += whole + [part for part in parts if len(part) < size]
        longest = max(range(len(steps)), key=lambda place: (len(steps[place]) == size, lengths[steps[place][0]]))
        steps.insert(0, steps.pop(longest))
        return [row for part in steps for row in part]

    def step(self, step: int, rank: int = 0) -> list[list[int]]:
        """The micro-batches (lists of sample numbers) of one optimizer step, counted from 0 over all epochs.

        Every rank gets the same number of micro-batches; where an epoch's last step has too few rows some are empty.
        """
        epoch, within = divmod(step, self.steps_an_epoch)
        order = self._order_of(epoch)
        mine = order[within * self.rows_a_step : (within + 1) * self.rows_a_step]
        micro = [mine[start : start + self.batch_rows] for start in range(0, len(mine), self.batch_rows)]
        while len(micro) % self.ranks:
            micro.append([])
        return [[sample for row in part for sample in self.rows[row]] for part in micro[rank :: self.ranks]]

    def _order_of(self, epoch: int) -> list[int]:
        cached = self.__dict__.get("_cache")
        if cached is None or cached[0] != epoch:
            cached = (epoch, self.order(epoch))
            self.__dict__["_cache"] = cached
        return cached[1]
