"""Datasets that are read as they lie, from any place on, and shared out among readers that each read a part of them.

A lane is a fixed share of the files, or of the rows in them. What is in a lane follows from the files alone, so each
process of a run finds the same lanes, and reads none of the rows of a lane that is not its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from burnish.data.checks import Seen
from burnish.data.iterate import Options, Placed, Tally, begin, converted, resolved, seen_in, stretches_of
from burnish.data.readers import count_rows, row_groups, rows_if_told, rows_with_places
from burnish.data.records import Sample
from burnish.data.spec import DatasetSpec
from burnish.data.stretches import Stretch
from burnish.errors import DataError

LANE_SHARE = 0.9
"""The smallest lane must be this large beside the largest: the rows of a smaller one would come around more often."""


class Undivided(DataError):
    """The data cannot be shared out in so many lanes; `what` says why."""


class Shard(NamedTuple):
    """Rows that lie side by side in a file of one of the datasets, which is named by its number.

    Where `of` is more than 1, only each `of`th of them is meant: the rows whose number in the file leaves the
    remainder `turn`.
    """

    dataset: int
    stretch: Stretch
    turn: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place after a sample: what is to be read next, and what was counted of its dataset in this pass.

    Args:
        shard: its number among those that are read.
        row: the next row, by its number in the file.
        rows, kept, dropped: as in `Tally`; the share of bad rows is judged at the end of the dataset.
    """

    shard: int = 0
    row: int = 0
    rows: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class Corpus:
    """Datasets one after the other; the arguments are those of `iter_samples`.

    Raises:
        DataError: as `iter_samples`.
    """

    def __init__(self, names: Sequence[str], dataset_dir: Path, **reading: Any) -> None:
        self.options = Options(**reading)
        self.notes: list[str] = []
        self.specs = resolved(names, dataset_dir, self.options.stage, self.notes)
        self.begin: Cursor | None = None  # of each pass; what lies before it is held out
        self._heads: dict[int, tuple[DatasetSpec, Seen]] = {}
        self._lanes: dict[int, list[list[Shard]]] = {}

    @cached_property
    def shards(self) -> list[Shard]:
        """All rows, as stretches of files, in the order in which they are read."""
        return [
            Shard(number, stretch)
            for number, spec in enumerate(self.specs)
            for stretch in stretches_of(spec, self.options, self.notes)
        ]

    def alone(self, number: int) -> Corpus:
        """One of the datasets as a corpus of its own."""
        one = copy.copy(self)
        one.specs, one.begin, one._lanes = [self.specs[number]], None, {}
        one.shards = [Shard(0, shard.stretch) for shard in self.shards if shard.dataset == number]
        one._heads = {0: self.opened(number)}
        return one

    def identity(self) -> str:
        """A digest of which rows of which files are read; files are known by name and size, not by content."""
        rows = [(shard.stretch.file.name, _size(shard.stretch.file), *shard.stretch[1:]) for shard in self.shards]
        return hashlib.sha256(json.dumps([rows, self.options.max_samples]).encode()).hexdigest()

    def read(self, lane: int = 0, lanes: int = 1, cursor: Mapping[str, Any] | None = None, epoch: int = 0) -> Reader:
        """Begin a pass over a lane, or go on with one.

        Args:
            cursor: the fields of the Cursor of an earlier reader of this lane.
            epoch: which pass it is; the rows come in the same order in each of them.
        Raises:
            Undivided: as `divide`.
        """
        at = self.begin if lanes == 1 else None
        if cursor is not None:
            at = Cursor(**cursor)
        return Reader(self, self.divide(lanes)[lane], at)

    def hold_out(self, samples: Reader, count: int) -> None:
        """Leave all up to the cursor of `samples` out of all passes from now on."""
        self.begin = Cursor(**samples.cursor)

    def opened(self, number: int) -> tuple[DatasetSpec, Seen]:
        """A dataset with its format, which its first rows tell, and the columns that these have."""
        if number not in self._heads:
            part = Tally(stretches=[shard.stretch for shard in self.shards if shard.dataset == number])
            spec, head, _ = begin(self.specs[number], self.options, part)
            self._heads[number] = spec, seen_in(head, spec, self.options)
            self.notes += part.notes
        return self._heads[number]

    def divide(self, lanes: int) -> list[list[Shard]]:
        """The shards of each lane: whole files, or where these do not fit, a part of each file.

        Such a part is a run of rows or row groups, or where a file cannot be begun at these, each so many-th row.

        Raises:
            Undivided: there are too few of them, or their sizes would make the lanes too unequal.
        """
        if lanes not in self._lanes:
            self._lanes[lanes] = [self.shards] if lanes == 1 else self._divided(lanes)
        return self._lanes[lanes]

    def _divided(self, lanes: int) -> list[list[Shard]]:
        shards = self._to_train_on()
        sized = [(shard, _bytes(shard.stretch) if len(shards) > 1 else 1.0) for shard in shards]
        reason = f"there are fewer files ({len(shards)}) than lanes ({lanes})"
        if len(shards) >= lanes:
            found = _dealt([[one] for one in sized], lanes)
            if found is not None:
                return found
            reason = f"the sizes of the {len(shards)} files would make lanes of very unequal size"
        groups = [_parts(shard, size, lanes) for shard, size in sized]
        if all(len(parts) == lanes for parts in groups):
            found = _dealt(groups, lanes)
            if found is not None:
                return found
        for place, (shard, size) in enumerate(sized):
            if len(groups[place]) < lanes or _dealt([groups[place]], lanes) is None:
                groups[place] = _by_turns(shard, size, lanes)
        few = next((shard for (shard, _), parts in zip(sized, groups, strict=True) if not parts), None)
        found = None if few else _dealt(groups, lanes)
        if found is None:
            raise Undivided(f"{reason}, and {few.stretch.file.name} has too few rows for even lanes" if few else reason)
        return found

    def _to_train_on(self) -> list[Shard]:
        """The shards without the rows that are held out, or that lie after the first `max_samples` of their dataset."""
        at = self.begin or Cursor()
        found = []
        for number, shard in enumerate(self._limited()):
            if shard is None or number < at.shard:
                continue
            rest = shard.stretch
            if number == at.shard and at.row > rest.start:
                rest = rest._replace(start=at.row)
                if rest.start >= (count_rows(rest.file) if rest.stop is None else rest.stop):
                    continue
            found.append(Shard(shard.dataset, rest))
        return found

    def _limited(self) -> list[Shard | None]:
        """The shards up to the `max_samples`th row of each dataset; None in the place of those after it."""
        limit = self.options.max_samples
        if limit is None:
            return list(self.shards)
        left = dict.fromkeys(range(len(self.specs)), limit)
        found: list[Shard | None] = []
        for number, stretch, *_ in self.shards:
            if left[number] <= 0:
                found.append(None)
                continue
            rows = rows_if_told(stretch.file, stretch.start + left[number])
            if rows is None:
                raise Undivided(
                    f"max_samples takes the first rows, and {stretch.file.name} does not tell how many it has"
                )
            stop = rows if stretch.stop is None else stretch.stop
            if stop - stretch.start > left[number]:
                stretch = stretch._replace(stop=stretch.start + left[number])
            left[number] -= stop - stretch.start
            found.append(Shard(number, stretch))
        return found


class Reader(Iterator[Sample]):
    """The samples of some shards in their order; `cursor` is the place after the last one that was taken."""

    def __init__(self, corpus: Corpus, shards: Sequence[Shard], at: Cursor | None) -> None:
        self.corpus, self.shards = corpus, shards
        self._at, self._whole = at or Cursor(), at is None and shards is corpus.shards
        self._part = Tally(rows=self._at.rows, kept=self._at.kept, dropped=Counter(self._at.dropped))
        self._shard, self._row = self._at.shard, self._at.row
        self._samples = self._read()

    def __next__(self) -> Sample:
        return next(self._samples)

    @property
    def cursor(self) -> dict[str, Any]:
        """The fields of a Cursor, ready for JSON."""
        part = self._part
        return asdict(Cursor(self._shard, self._row, part.rows, part.kept, dict(part.dropped)))

    def _read(self) -> Iterator[Sample]:
        first = self._at.shard
        while first < len(self.shards):
            number = self.shards[first].dataset
            end = first
            while end < len(self.shards) and self.shards[end].dataset == number:
                end += 1
            spec, seen = self.corpus.opened(number)
            yield from converted(spec, self._rows(first, end), self.corpus.options, self._part, seen, whole=self._whole)
            first = end
            if first < len(self.shards):
                self._part = Tally()

    def _rows(self, first: int, end: int) -> Iterator[Placed]:
        for number in range(first, end):
            shard = self.shards[number]
            stretch = shard.stretch
            start = self._at.row if number == self._at.shard else 0
            self._shard, self._row = number, start
            for row, value in stretch.rows(self._part.notes, start, go_on=self.corpus.options.on_bad_row == "report"):
                self._row = row + 1
                if row % shard.of == shard.turn:
                    yield stretch.file, row, value


# -- sharing out ----------------------------------------------------------------------------------------------

Sized = tuple[Shard, float]
"""A shard, and its bytes on disk."""


def _size(file: Path) -> int:
    return file.stat().st_size


def _bytes(stretch: Stretch) -> float:
    """The bytes of a stretch on disk, as if all rows of its file had the same."""
    size = _size(stretch.file)
    if stretch.start == 0 and stretch.stop is None:
        return size
    rows = count_rows(stretch.file)
    return size * ((rows if stretch.stop is None else stretch.stop) - stretch.start) / max(rows, 1)


def _dealt(groups: Sequence[Sequence[Sized]], lanes: int) -> list[list[Shard]] | None:
    """Deal shards out to lanes, the largest first, each to the lane that has least; None where that is not even.

    Args:
        groups: shards that must go to different lanes stand together.
    """
    held: list[list[tuple[int, Shard]]] = [[] for _ in range(lanes)]
    sizes = [0.0] * lanes
    order = sorted(range(len(groups)), key=lambda place: -sum(size for _, size in groups[place]))
    for place in order:
        free = sorted(range(lanes), key=lambda lane: sizes[lane])
        for lane, (shard, size) in zip(free, sorted(groups[place], key=lambda one: -one[1]), strict=False):
            held[lane].append((place, shard))
            sizes[lane] += size
    if min(sizes) < LANE_SHARE * max(sizes):
        return None
    return [[shard for _, shard in sorted(lane, key=lambda one: one[0])] for lane in held]


def _parts(shard: Shard, size: float, lanes: int) -> list[Sized]:
    """A shard's rows in so many runs of about as many; fewer, where its file is not divided in so many places."""
    stretch = shard.stretch
    rows, ends = rows_with_places(stretch.file, stretch.stop), []
    if rows is None:
        ends = list(accumulate(row_groups(stretch.file)))
        if not ends:
            return [(shard, size)]
        rows = ends[-1]
    stop = rows if stretch.stop is None else stretch.stop
    total = stop - stretch.start
    wanted = [stretch.start + round(total * lane / lanes) for lane in range(1, lanes)]
    if ends:
        inside = [end for end in ends if stretch.start < end < stop]
        wanted = [min(inside, key=lambda end: abs(end - row)) for row in wanted] if inside else []
    cuts = sorted({row for row in wanted if stretch.start < row < stop})
    edges = [stretch.start, *cuts, stop]
    return [
        (Shard(shard.dataset, Stretch(stretch.file, start, stop)), size * (stop - start) / max(total, 1))
        for start, stop in pairwise(edges)
    ]


def _by_turns(shard: Shard, size: float, lanes: int) -> list[Sized]:
    """A shard's rows one by one for each lane in turn; none, where there are so few that this is uneven."""
    enough = round(lanes * LANE_SHARE / (1 - LANE_SHARE))
    if sum(1 for _ in islice(shard.stretch.rows([], go_on=True), enough)) < enough:
        return []
    return [(shard._replace(turn=turn, of=lanes), size / lanes) for turn in range(lanes)]
