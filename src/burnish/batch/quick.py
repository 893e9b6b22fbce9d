"""Conversations of known shapes to labelled rows, a chunk at once: the same rows as one by one, in arrays.

See `template/shapes.py` for what a shape is. Rows that do not fit, and rows in which a token reaches over the edge of
a span, are left to the thorough way of `chunks.py`; so is a row of each shape now and then, to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np

from burnish.data.records import Conversation, Sample
from burnish.template import ChatTemplate
from burnish.template.shapes import Edge, Shape

COMPARE_EVERY = 2000
"""Rows of a shape after which one is made the thorough way as well."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A row to be compared with what the thorough way makes of it: where its sample stands, and if it is the first."""

    shape: Shape
    place: int
    first: bool


@dataclass(slots=True)
class QuickRows:
    """Rows as arrays, laid out as in `Chunk`, and those to be compared.

    `ids` [tokens] int32; `trained` [tokens] bool; `ends` [rows] int64; `owners` [rows] int64, rising.
    """

    ids: np.ndarray
    trained: np.ndarray
    ends: np.ndarray
    owners: np.ndarray
    compare: list[Compared]


def quick_rows(
    samples: Sequence[Sample], template: ChatTemplate, *, most: int, last_only: bool, split: bool, whole: bool
) -> QuickRows | None:
    """Rows of those samples that have a shape and need no cut; None where there are none.

    Args:
        most: tokens a row may have.
        last_only: train the last answer alone.
        split: only conversations that train one answer.
        whole: train prompts, too.
    """
    places, shapes, texts = _rendered(samples, template, last_only=last_only, split=split)
    if not places:
        return None
    encoded = template.encoder.encode_all(texts)
    for shape, ids in zip(shapes, encoded, strict=True):
        if shape.closing_id is not None:
            ids.append(shape.closing_id)
    flat = np.fromiter(chain.from_iterable(encoded), dtype=np.int32)
    bounds = np.fromiter(accumulate(map(len, encoded), initial=0), dtype=np.int64, count=len(encoded) + 1)
    lengths = np.diff(bounds)
    labels = _Labels(flat, bounds, template.encoder.control_ids, whole=whole)
    groups: dict[int, list[int]] = {}
    for row, shape in enumerate(shapes):
        groups.setdefault(id(shape), []).append(row)
    for rows in groups.values():
        labels.add(shapes[rows[0]], np.array(rows))
    trained = np.cumsum(labels.steps[:-1]) > 0
    good = labels.good & (lengths <= most) & (_supervised(trained, bounds) > 0)
    compare = [one for rows in groups.values() for one in _compared(shapes, places, rows, good)]
    kept = np.repeat(good, lengths)
    owners = np.array(places, dtype=np.int64)[good]
    return QuickRows(flat[kept], trained[kept], np.cumsum(lengths[good]), owners, compare)


def _rendered(
    samples: Sequence[Sample], template: ChatTemplate, *, last_only: bool, split: bool
) -> tuple[list[int], list[Shape], list[str]]:
    find = template.shapes.find
    places: list[int] = []
    shapes: list[Shape] = []
    texts: list[str] = []
    for place, sample in enumerate(samples):
        found = find(sample.record, last_only=last_only) if isinstance(sample.record, Conversation) else None
        if found is None or (split and len(found[0].answers) > 1):
            continue
        shape, contents = found
        places.append(place)
        shapes.append(shape)
        texts.append(shape.text(contents))
    return places, shapes, texts


def _supervised(trained: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Trained tokens of each row but for its first, which nothing stands before, [rows] int64."""
    before = np.concatenate([[0], np.cumsum(trained)])
    starts, ends = bounds[:-1], bounds[1:]
    return before[ends] - before[np.minimum(starts + 1, ends)]


def _compared(shapes: Sequence[Shape], places: Sequence[int], rows: Sequence[int], good: np.ndarray) -> list[Compared]:
    """The first row of a shape, and one again after many."""
    usable = [row for row in rows if good[row]]
    shape = shapes[rows[0]]
    before, shape.uses = shape.uses, shape.uses + len(usable)
    due = usable and (not before or before // COMPARE_EVERY != shape.uses // COMPARE_EVERY)
    return [Compared(shape, places[usable[0]], not before)] if due else []


class _Labels:
    """Which tokens of rows that lie one after another are trained.

    `good` [rows] bool: rows that were labelled. `steps` [tokens + 1]: where training begins (1) and ends (-1).
    """

    def __init__(self, flat: np.ndarray, bounds: np.ndarray, control_ids: frozenset[int], *, whole: bool) -> None:
        self.flat, self.starts, self.ends, self.whole = flat, bounds[:-1], bounds[1:], whole
        names = np.fromiter(control_ids, dtype=np.int64)
        table = np.zeros(1 + max(int(flat.max(initial=0)), int(names.max(initial=0))), dtype=bool)
        table[names] = True
        self.places = np.flatnonzero(table[flat])
        self.before = np.searchsorted(self.places, bounds)  # control tokens before each row
        self.good = np.zeros(len(self.starts), dtype=bool)
        self.steps = np.zeros(len(flat) + 1, dtype=np.int32)

    def add(self, shape: Shape, rows: np.ndarray) -> None:
        """Label the rows of a shape; those whose tokens do not lie as it says stay as they are."""
        rows = rows[self.before[rows + 1] - self.before[rows] == shape.controls]
        edges = [edge for answer in shape.answers for edge in (answer.begin, answer.end) if edge is not None]
        for edge in (*edges, *shape.checks):
            rows = rows[self._lies(edge, rows)]
        self.good[rows] = True
        if self.whole:
            self._train(self.starts[rows], self.ends[rows], 1)
        for answer in shape.answers:
            if answer.trained != self.whole:
                end = self.ends[rows] if answer.end is None else self._place(answer.end, rows)
                self._train(self._place(answer.begin, rows), end, 1 if answer.trained else -1)

    def _first(self, edge: Edge, rows: np.ndarray) -> np.ndarray:
        return self.starts[rows] if edge.control < 0 else self.places[self.before[rows] + edge.control]

    def _place(self, edge: Edge, rows: np.ndarray) -> np.ndarray:
        return self._first(edge, rows) + len(edge.words)

    def _lies(self, edge: Edge, rows: np.ndarray) -> np.ndarray:
        """In which of the rows the words before an edge are tokens of their own."""
        first = self._first(edge, rows)
        lies = first + len(edge.words) <= self.ends[rows]
        for offset, word in enumerate(edge.words):
            lies &= self.flat[np.minimum(first + offset, len(self.flat) - 1)] == word
        return lies

    def _train(self, begin: np.ndarray, end: np.ndarray, step: int) -> None:
        np.add.at(self.steps, begin, step)
        np.add.at(self.steps, end, -step)
