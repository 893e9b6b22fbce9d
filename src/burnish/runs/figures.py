"""Figures about a run that need a formula."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def wilson_interval(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a proportion: which true rates agree with `hits` out of `total`.

    Unlike p ± z·sqrt(p(1-p)/n) it stays within 0 and 1 and has a width at 0 % and 100 %. With
    p = hits / total and n = total, its ends are (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        hits: successes, 0 to total.
        total: independent trials; 0 gives (0, 1), since nothing is known.
        z: standard normal deviates on each side; 1.96 is a 95 % interval.
    Returns:
        Lower and upper end, fractions between 0 and 1.
    Raises:
        ValueError: hits is not between 0 and total, or z is negative.
    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if not 0 <= hits <= total:
        raise ValueError(f"hits must be between 0 and total, not {hits} of {total}")
    if z < 0:
        raise ValueError(f"z must not be negative, not {z}")
    if total == 0:
        return 0.0, 1.0
    rate = hits / total
    scale = 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    # At 0 and 100 % one end is exact; rounding must not move it.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == total else min(1.0, centre + half)
    return low, high


def share_in_order(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """How well values tell better things from worse ones that are not paired: the area under the ROC curve.

    Each better value meets each worse one. A pair counts 1 where the better value is higher, 1/2 where both are equal
    and 0 where it is lower; the result is the mean over all pairs. Values that know nothing give 0.5.

    Args:
        better, worse: values of the two kinds, in any order. A NaN is neither higher than a value nor equal to it.
    Returns:
        A fraction between 0 and 1; None where one of the kinds has no value, so that there is no pair.
    Source: U / (n m) of Mann and Whitney, Annals of Mathematical Statistics 18 (1947), 50-60; as the area under the ROC
        curve: Hanley and McNeil, Radiology 143 (1982), 29-36.
    """
    if not better or not worse:
        return None
    below = sorted(value for value in worse if not math.isnan(value))
    halves = sum(bisect_left(below, value) + bisect_right(below, value) for value in better if not math.isnan(value))
    return halves / (2 * len(better) * len(worse))
