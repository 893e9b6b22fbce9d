"""The statistics of a loss that goes up and down again and again.

A healthy loss falls, and scatters around its fall without a memory: rows are shuffled. So the fall is taken out by the
best curve that never rises (isotonic regression: it can follow any fall, and no wave), and what is left is asked
whether it has a memory (autocorrelation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish.runs.doctor.evidence import Points

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, np.dtype[np.float64]]

FEWEST = 24  # logged values from which on waves can be told from noise
_SURE = 4.5  # standard errors of an autocorrelation: many lags are looked at
_SHARE = 0.3  # of the scatter: the autocorrelation of a wave that matters
_CYCLES = 3  # times up and down
_SIZE = 0.08  # of the loss, from trough to crest
_WINSOR = 4.0  # deviations: single spikes are another finding


@dataclass(frozen=True)
class Waves:
    """A loss that went up and down.

    Attributes:
        at: places in the logged values that were looked at; the beginning is left out.
        trend: the curve that never rises, [N], in nats.
        wave: what goes up and down, as a share of the trend, [N]; the moving mean of `width` values.
        correlation: the highest autocorrelation of what the trend leaves over; its standard error is 1/√N.
        period: logged values from crest to crest, on average.
        regular: whether the crests come at equal distances.
        cycles: times that it went up and down again.
        low, high: the middle ones of its troughs and crests.
    """

    at: range
    trend: Values
    wave: Values
    width: int
    correlation: float
    period: float
    regular: bool
    cycles: int
    low: float
    high: float


def never_rising(values: Sequence[float]) -> Values:
    """The curve nearest to `values` in squares that never rises, [N].

    Source: pool adjacent violators, Ayer et al., Annals of Mathematical Statistics 26 (1955).
    """
    import numpy as np

    means: list[float] = []
    sizes: list[int] = []
    for value in values:
        mean, size = float(value), 1
        while means and means[-1] < mean:
            before, count = means.pop(), sizes.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        means.append(mean)
        sizes.append(size)
    return np.repeat(np.array(means), sizes)


def autocorrelation(values: Values) -> Values:
    """Of each lag from 0 to N/3, [N // 3 + 1]: 1 at 0, and around 0 with a deviation of 1/√N for pure noise."""
    import numpy as np

    centred = values - values.mean()
    size = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * size)) ** 2
    found = np.fft.irfft(power)[: size // 3 + 1]
    return np.asarray(found / found[0] if found[0] > 0 else np.zeros_like(found))


def find_waves(points: Points) -> Waves | None:
    """The waves of a logged loss; None where it falls and scatters as that of a healthy run."""
    import numpy as np

    start = len(points) // 10  # the fast fall at the beginning
    values = np.array([value for _, value in points[start:]])
    if len(values) < FEWEST or not (values > 0).all():
        return None
    trend = never_rising(list(values))
    left = values / trend - 1.0
    spread = 1.4826 * float(np.median(np.abs(left - np.median(left))))
    if spread > 0:
        left = np.clip(left, -_WINSOR * spread, _WINSOR * spread)
    memory = autocorrelation(left)
    highest = float(memory[1:].max())
    if highest < max(_SHARE, _SURE / math.sqrt(len(left))):
        return None
    period, regular = _period(left, memory)
    width = max(1, int(period // 4))
    wave = smoothed(left, width)
    turns = turning_points(wave)
    troughs, crests = [at for at, up in turns if not up], [at for at, up in turns if up]
    cycles = min(len(troughs), len(crests))
    if cycles < _CYCLES or float(np.median(wave[crests]) - np.median(wave[troughs])) < _SIZE:
        return None
    levels = trend * (1.0 + wave)
    low, high = float(np.median(levels[troughs])), float(np.median(levels[crests]))
    if not regular:
        period = len(wave) / cycles
    return Waves(range(start, len(points)), trend, wave, width, highest, period, regular, cycles, low, high)


def _period(left: Values, memory: Values) -> tuple[float, bool]:
    """The distance of crests, and whether it is always the same: the first high lag behind the first below 0."""
    below = [lag for lag in range(1, len(memory)) if memory[lag] < 0]
    if below and (rest := memory[below[0] :]).size and rest.max() > max(0.2, 3.0 / math.sqrt(len(left))):
        top = float(rest.max())
        first = next(lag for lag in range(len(rest)) if rest[lag] > 0.8 * top)
        while first + 1 < len(rest) and rest[first + 1] > rest[first]:
            first += 1
        return float(below[0] + first), True
    return 2.0 * (below[0] if below else len(left) / 3), False


def smoothed(values: Values, width: int) -> Values:
    """A moving mean over `width` values, [N]; at the ends over those that are there."""
    import numpy as np

    ones = np.ones(width)
    return np.asarray(np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same"))


def turning_points(wave: Values) -> list[tuple[int, bool]]:
    """Crests (True) and troughs (False) in turn; a turn counts once the curve went back by 1.2 deviations."""
    back = 1.2 * float(wave.std())
    found: list[tuple[int, bool]] = []
    lowest = highest = 0
    rising: bool | None = None
    for place in range(len(wave)):
        if wave[place] > wave[highest]:
            highest = place
        if wave[place] < wave[lowest]:
            lowest = place
        if rising is not False and wave[highest] - wave[place] > back:
            found.append((highest, True))
            rising, lowest = False, place
        elif rising is not True and wave[place] - wave[lowest] > back:
            found.append((lowest, False))
            rising, highest = True, place
    return found


def explained(wave: Values, causes: Sequence[Sequence[float]]) -> float:
    """The share of a wave's variance that a linear fit of some columns explains, less what as many columns of noise
    would explain (adjusted R²), at least 0.

    Args:
        causes: columns of N values; those that are constant, or that others determine, cost nothing.
    """
    import numpy as np

    columns = np.array([[1.0] * len(wave), *causes], dtype=np.float64).T
    fit, _, rank, _ = np.linalg.lstsq(columns, wave, rcond=None)
    total = float(((wave - wave.mean()) ** 2).sum())
    rest = float(((wave - columns @ fit) ** 2).sum())
    freedom = len(wave) - int(rank)
    if total <= 0 or freedom <= 0:
        return 0.0
    return max(0.0, 1.0 - (rest / freedom) / (total / (len(wave) - 1)))


def folded(wave: Values, phases: Sequence[float], parts: int) -> tuple[float, Values]:
    """The share of a wave's variance between equal parts of a period, and the mean of each part, [parts].

    Args:
        phases: where in its period each value lies, 0 to below 1.
    """
    import numpy as np

    places = np.minimum((np.asarray(phases) * parts).astype(int), parts - 1)
    centred = wave - wave.mean()
    means = np.array([centred[places == part].mean() if (places == part).any() else 0.0 for part in range(parts)])
    total = float((centred**2).sum())
    return (float((means[places] ** 2).sum()) / total if total > 0 else 0.0), means
