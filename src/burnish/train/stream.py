"""Training on data that is read while the run goes on, and exact resume.

The data is divided into lanes (`data.corpus`), and micro-batch after micro-batch is taken from each lane in its turn.
Which rows an optimizer step sees so depends on the seed, the number of lanes and the place in each of them, and not on
the number of processes. Where that number divides the lanes, the micro-batches of a lane always fall to the same
process, so it reads only its own lanes, and all processes together read each row once a pass. A lane that has come to
its end begins again by itself: no process ever waits for another one, or has fewer steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import gcd
from typing import Any

from burnish import log
from burnish.batch.chunks import LabelOptions, MakeChunk
from burnish.batch.store import Origin
from burnish.data.corpus import Undivided
from burnish.errors import DataError
from burnish.template import ChatTemplate, Example
from burnish.train.lanes import Lane, Position, Preparing, Source, StreamOptions

_BLOCK_BITS = 20
"""A number holds the lane and row of an example, and its place in the block; a block has fewer examples than 2^20."""


class StreamPlan:
    """What `BatchPlan` is for data on disk: which samples each optimizer step sees, and the samples themselves.

    Args:
        source: gives the samples.
        template, labels, make: how samples become examples, as in `workers.make_chunks`.
        batch_rows, accumulation, ranks: as in `BatchPlan`.
        rank: the process that this is.
        gather: what this process has → what all have, in the order of the ranks.
    """

    def __init__(
        self,
        source: Source,
        template: ChatTemplate,
        labels: LabelOptions,
        make: MakeChunk,
        options: StreamOptions,
        batch_rows: int,
        accumulation: int,
        ranks: int = 1,
        rank: int = 0,
        gather: Callable[[Any], list[Any]] = lambda one: [one],
    ) -> None:
        self.source, self.preparing = source, Preparing(template, labels, make, options)
        self.batch_rows, self.accumulation, self.ranks = batch_rows, accumulation, ranks
        self.rank, self.gather = rank, gather
        self.lanes = 1
        self._opened: dict[int, Lane] = {}
        self._places: list[Position] = [{}]  # where each lane is begun
        self._first_step, self._turn = 0, 0  # the first step from there, and the lane of its first micro-batch

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

    # -- lanes --------------------------------------------------------------------------------------------

    @property
    def own_lanes(self) -> list[int]:
        """The lanes that this process reads: only its own, where the processes divide the lanes."""
        shared = gcd(self.lanes, self.ranks)
        return list(range(self.rank % shared, self.lanes, shared))

    def divide(self, lanes: int | None = None) -> None:
        """Divide the data for a run from the beginning; says how, where there are several processes or lanes.

        Args:
            lanes: None for one lane a process, or where the data cannot be divided so, one that all of them read.
        Raises:
            DataError: the data cannot be divided into the lanes that are asked for.
        """
        wanted = lanes or self.ranks
        try:
            self.source.divide(wanted)
        except Undivided as error:
            if lanes:
                raise _cannot(wanted, error.what) from None
            log.note(f"each of the {self.ranks} processes reads all of the data and trains on its part: {error.what}")
            wanted = 1
        self._begin([{}] * wanted, 0, 0)
        self._say()

    def seek(self, position: Position, step: int, lanes: int | None = None) -> None:
        """Go to where a checkpoint after `step` steps left the data, with whatever number of processes.

        Args:
            position: what `position` gave.
            lanes: how many are asked for, if any.
        Raises:
            DataError: the checkpoint has another number of lanes, or the data cannot be divided as it was, or its
                place was only counted, as an older version did.
        """
        places = position.get("places", [position])
        if any(place.get("taken") and not place.get("cursor") for place in places):
            raise DataError(
                "the checkpoint was made by a version that could not find a place in datasets that take turns",
                at="resume_from_checkpoint",
                fix="start the run again in a new output_dir, or go on with the version that made the checkpoint",
            )
        if lanes and lanes != len(places):
            raise DataError(
                f"the checkpoint's data is divided into {len(places)} lanes, and not into {lanes}",
                at="stream_lanes",
                fix=f"leave stream_lanes out, or set it to {len(places)}",
            )
        try:
            self.source.divide(len(places))
        except Undivided as error:
            raise _cannot(len(places), error.what, " as in the checkpoint") from None
        self._begin(places, step, position.get("turn", 0))
        self._say()

    def _begin(self, places: list[Position], step: int, turn: int) -> None:
        self.close()
        self.lanes, self._places, self._opened = len(places), places, {}
        self._first_step, self._turn = step, turn

    def _say(self) -> None:
        if self.lanes == 1:
            return
        own = len(self.own_lanes)
        if self.lanes % self.ranks:
            log.note(
                f"{self.lanes} lanes of data do not divide among {self.ranks} processes: each reads {own} of them and "
                "trains on a part of what it reads"
            )
        else:
            log.say(f"the data is read in {self.lanes} lanes, {own} by each process")

    def _lane(self, number: int) -> Lane:
        if number not in self._opened:
            place = self._places[number]
            self._opened[number] = Lane(self.source, self.preparing, number, self.lanes, place)
        return self._opened[number]

    def _row(self, lane: int, step: int) -> int:
        """The next row of a lane after `step` steps."""
        micro = self._turn + max(step - self._first_step, 0) * self.accumulation * self.ranks
        return self._row_of(lane, micro)

    def _row_of(self, lane: int, micro: int) -> int:
        """The next row of a lane before a micro-batch. These are counted from the last one of lane 0 before `seek`."""
        turns = (micro - lane + self.lanes - 1) // self.lanes - (lane < self._turn)
        return int(self._places[lane].get("row", 0)) + turns * self.batch_rows

    # -- what the loop asks -------------------------------------------------------------------------------

    def epoch_at(self, step: int) -> float:
        """Passes over this process's first lane that are complete after `step` steps."""
        lane = self.own_lanes[0]
        return float(self._lane(lane).epoch_before(self._row(lane, step)))

    def position(self, step: int) -> Position:
        """What a checkpoint after `step` steps keeps: the place in each lane, and whose turn is next.

        Called on all processes; each tells of the lanes that it has opened.
        """
        places = list(self._places)
        mine = {number: lane.position(self._row(number, step)) for number, lane in self._opened.items()}
        for told in self.gather(mine):
            for number, place in told.items():
                places[number] = place
        turn = self._turn + (step - self._first_step) * self.accumulation * self.ranks
        return {"places": places, "turn": turn % self.lanes}

    def summary(self, step: int) -> dict[str, Any]:
        """What was read up to here, for run.json. Called on all processes.

        Returns:
            `rows_read` and `dropped` since the run was begun or resumed; a lane counts once, however many processes
            read it. `lanes`, and where there are several, `passes`: in which pass over each of them the run is.
        """
        mine = {
            number: (lane.samples_read, dict(lane.dropped), lane.epoch_before(self._row(number, step)) + 1)
            for number, lane in self._opened.items()
        }
        most: dict[int, tuple[int, dict[str, int], int]] = {}
        for told in self.gather(mine):
            most |= {number: max(one, most.get(number, one), key=lambda each: each[0]) for number, one in told.items()}
        dropped = Counter[str]()
        for _, lost, _ in most.values():
            dropped.update(lost)
        found = {
            "rows_read": sum(read for read, *_ in most.values()),
            "dropped": dict(dropped.most_common()),
            "lanes": self.lanes,
        }
        before = [int(place.get("row_epoch", -1)) + 1 for place in self._places]
        passes = [most[number][2] if number in most else before[number] for number in range(self.lanes)]
        return found if self.lanes == 1 else {**found, "passes": passes}

    def close(self) -> None:
        """Stop preparing ahead."""
        for lane in self._opened.values():
            lane.close()

    def step(self, step: int, rank: int = 0) -> list[list[int]]:
        """The micro-batches of one optimizer step; numbers hold the lane, the row and the example in its block."""
        for number, lane in self._opened.items():
            lane.forget(self._row(number, step - 1))
        first = self._turn + (step - self._first_step) * self.accumulation * self.ranks
        return [self._micro_batch(first + rank + turn * self.ranks) for turn in range(self.accumulation)]

    def _micro_batch(self, micro: int) -> list[int]:
        number = micro % self.lanes
        lane, first = self._lane(number), self._row_of(number, micro)
        return [
            ((row * self.lanes + number) << _BLOCK_BITS) + place
            for row in range(first, first + self.batch_rows)
            for place in lane.numbers(row)
        ]

    def example(self, number: int) -> Example:
        """The example behind a number that `step` gave for this step or the one before."""
        lane, row, place = self._parts(number)
        return lane.example(row, place)

    def dataset(self, number: int) -> str:
        """The dataset of such an example; of a window, that of the document in which it begins."""
        lane, row, place = self._parts(number)
        return lane.dataset(row, place)

    def source_of(self, number: int) -> tuple[str, Origin]:
        """The record of such an example, and where it came from, in a stage that keeps records."""
        lane, row, place = self._parts(number)
        return lane.source_of(row, place)

    def first_records(self) -> list[str]:
        """The records of the block in which the first lane begins."""
        lane = self._lane(self.own_lanes[0])
        return lane.records(lane.first_row)

    def _parts(self, number: int) -> tuple[Lane, int, int]:
        coded, place = divmod(number, 1 << _BLOCK_BITS)
        row, lane = divmod(coded, self.lanes)
        return self._lane(lane), row, place


def _cannot(lanes: int, why: str, when: str = "") -> DataError:
    return DataError(
        f"the data cannot be divided into {lanes} lanes{when}: {why}",
        at="stream_lanes",
        fix="ask for fewer lanes, or for one; or give files that are not compressed, so that they can be cut",
    )
