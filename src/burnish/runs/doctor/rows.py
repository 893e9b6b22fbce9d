"""Rows of the data that stand out by their loss: those far above rows of their own dataset and length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from burnish.runs.tables import table

_NEIGHBOURS = 40  # rows of like length that a row is compared with
_FEWEST = 8  # rows of a dataset from which on one can stand out
_TO_SIGMA = 1.4826  # a median deviation times this is the standard deviation of a normal distribution
_LEAST_SPREAD = 0.1  # of the usual loss, and nats: rows that are all known by heart differ by next to nothing


@dataclass(frozen=True, slots=True)
class RowLoss:
    """The loss of a row: nats a supervised token, of `tokens` of them. `text`: how the supervised text begins."""

    dataset: str
    file: str
    row: int
    loss: float
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class OddRow:
    """A row, the usual loss of rows like it, and how many standard deviations it lies above that."""

    row: RowLoss
    usual: float
    deviations: float

    def as_json(self) -> dict[str, Any]:
        row = self.row
        return {
            **{"dataset": row.dataset, "file": row.file, "row": row.row, "loss": row.loss, "tokens": row.tokens},
            **{"usual": self.usual, "deviations": self.deviations, "text": row.text},
        }


def named(file: str, row: int, dataset: str = "") -> str:
    """A row as people look for it: the name of its file, and the row counted from 0."""
    return f"{Path(file).name or dataset}:{row}"


def odd_rows(rows: Iterable[RowLoss], count: int) -> list[OddRow]:
    """The rows that stand out most, the worst first.

    Each is compared with the 40 rows of its dataset whose length is nearest: short answers scatter more, and datasets
    differ. The scale is the median and the median absolute deviation, which odd rows themselves hardly move.

    Args:
        count: most rows to return. Rows without a loss, and those of datasets with fewer than 8 rows, are left out.
    """
    datasets: dict[str, list[RowLoss]] = {}
    for row in rows:
        if math.isfinite(row.loss):
            datasets.setdefault(row.dataset, []).append(row)
    found = []
    for part in datasets.values():
        part.sort(key=lambda row: row.tokens)
        if len(part) < _FEWEST:
            continue
        for place, row in enumerate(part):
            begin = max(0, min(place - _NEIGHBOURS // 2, len(part) - _NEIGHBOURS - 1))
            beside = [other.loss for other in part[begin : begin + _NEIGHBOURS + 1] if other is not row]
            usual = median(beside)
            spread = _TO_SIGMA * median(abs(loss - usual) for loss in beside)
            spread = max(spread, _LEAST_SPREAD * usual, _LEAST_SPREAD)
            found.append(OddRow(row, usual, (row.loss - usual) / spread))
    return sorted(found, key=lambda each: -each.deviations)[:count]


def render_rows(rows: Sequence[OddRow]) -> str:
    """The rows for people."""
    head = ("row", "loss", "usual", "deviations", "tokens", "supervised text")
    lines = [
        (
            named(each.row.file, each.row.row, each.row.dataset),
            *(f"{each.row.loss:.2f}", f"{each.usual:.2f}", f"{each.deviations:+.1f}", str(each.row.tokens)),
            each.row.text[:60],
        )
        for each in rows
    ]
    title = f"The {len(rows)} rows whose loss stands out most among rows of their length (rows count from 0):"
    return f"{title}\n{table([head, *lines])}"


def shortened(text: str, width: int) -> str:
    """A text in one line of at most so many letters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
