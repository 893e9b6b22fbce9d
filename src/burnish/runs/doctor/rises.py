"""Does the loss rise, beyond what its scatter makes of it? The statistics, and the check.

The loss of a small batch scatters in proportion to itself: rows differ. So its logarithm is looked at, and levels are
medians of some neighbours, which one odd batch does not move. A rise from one level to a later one counts where it is
large, and also many standard errors of the difference of two medians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

from burnish.runs.doctor.evidence import Evidence, Finding, lowered

FEWEST = 6  # logged values from which on a rise can be told from noise
_NARROW = 3  # values of the narrowest level
_SHORTEST = 40  # parts of a run: what lasts for less than one is a leap
_SURE = 4.0  # standard errors: many pairs of levels are looked at
_SURE_AT_END = 3.3  # the first and the last level are one pair
_FEW = 20.0  # added to these standard errors, divided by the values: few of them tell little about their scatter
_MEDIAN = 1.2533  # standard errors of a median over those of a mean, √(π/2)
_LEAST = 0.01  # nats: below it a loss is next to nothing, and its logarithm says nothing
_HIGHER, _NATS = 1.4, 1.0  # times and nats above: a peak that matters
_END, _END_NATS = 0.1, 0.1  # of the loss at the start, and nats: an end above the start that matters
_STAYED = 0.5  # nats above the lowest level at the end: what came back is no divergence


class Level(NamedTuple):
    """The median of `size` neighbouring values from `place` on, in nats."""

    place: int
    size: int
    loss: float


class Rise(NamedTuple):
    """From one level to a later one, with what the loss was at the end. `kind`: end, peak or again."""

    kind: str
    low: float
    high: float
    last: float


def scatter(values: Sequence[float]) -> float:
    """The standard deviation of single losses around their course, as a share of the loss (of its logarithm).

    From the differences of neighbours, their middle one taken out: blind to a slow fall or rise, not to odd batches.

    Source: J. von Neumann, Annals of Mathematical Statistics 12 (1941).
    """
    logs = [math.log(max(value, _LEAST)) for value in values]
    steps = [later - earlier for earlier, later in pairwise(logs)]
    middle = median(steps)
    return math.sqrt(fmean((step - middle) ** 2 for step in steps) / 2)


def find_rise(values: Sequence[float]) -> Rise | None:
    """The rise of a loss that is no noise; None where it falls and scatters as that of a healthy run.

    Args:
        values: logged losses in their order, at least FEWEST of them; else there is no rise.
    """
    count = len(values)
    if count < FEWEST:
        return None
    spread = scatter(values)

    def sure(low: Level, high: Level, wanted: float = _SURE) -> bool:
        error = spread * _MEDIAN * math.sqrt(1 / low.size + 1 / high.size)
        return math.log(max(high.loss, _LEAST)) - math.log(max(low.loss, _LEAST)) > (wanted + _FEW / count) * error

    sizes = _sizes(count)
    for size in sizes:
        first, last = _level(values, 0, size), _level(values, count - size, size)
        if last.loss > first.loss + max(_END_NATS, _END * first.loss) and sure(first, last, _SURE_AT_END):
            return Rise("end", first.loss, last.loss, last.loss)
    for size in sizes:
        levels = [_level(values, place, size) for place in range(0, count - size + 1, max(1, size // 2))]
        start = Level(0, 1, values[0]) if size == _NARROW else levels[0]
        last = _level(values, count - size, size)
        peak = max(levels, key=lambda level: level.loss)
        if _matters(start, peak) and sure(start, peak):
            return Rise("peak", start.loss, peak.loss, last.loss)
        lowest = min(levels, key=lambda level: level.loss)
        again = max(levels[levels.index(lowest) :], key=lambda level: level.loss)
        stayed = last.loss > lowest.loss + max(_STAYED, _END * lowest.loss)
        if stayed and _matters(lowest, again) and sure(lowest, again) and sure(lowest, last):
            return Rise("again", lowest.loss, again.loss, last.loss)
    return None


def _sizes(count: int) -> list[int]:
    """The widths of levels, in values: of something short, of a tenth and of a quarter of the run."""
    narrow = max(min(_NARROW, count // 2), count // _SHORTEST)
    return sorted({narrow, max(narrow, count // 10), max(narrow, count // 4)})


def _level(values: Sequence[float], place: int, size: int) -> Level:
    return Level(place, size, median(values[place : place + size]))


def _matters(low: Level, high: Level) -> bool:
    return high.loss > max(_HIGHER * low.loss, low.loss + _NATS)


def loss_rises(run: Evidence) -> Iterator[Finding]:
    """The loss ends above its start, or rises on the way by more than its noise: the rate is too high."""
    found = find_rise([value for _, value in run.series("loss")])
    if found is None:
        return
    evidence = {
        "end": f"the loss was {found.low:.3f} at the start and {found.high:.3f} at the end",
        "peak": f"the loss rose from {found.low:.3f} to {found.high:.3f} before it fell to {found.last:.3f}",
        "again": f"the loss fell to {found.low:.3f}, rose to {found.high:.3f} and was {found.last:.3f} at the end",
    }[found.kind]
    yield Finding("loss-rises", "problem", "The training diverged.", evidence, lowered(run))
