"""Two models on the same questions: is the difference more than chance? Plain statistics, no scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

RESAMPLES = 10_000
SEED = 20_240_501
FEW = 30  # questions below which an interval is hardly worth its name
_ENUMERATED = 16  # differences up to which all 2**n signs are tried
_AT_ONCE = 2_000_000  # random numbers in memory


@dataclass(frozen=True)
class Paired:
    """What a comparison on the same questions found. Every difference is new minus old, in the metric's own units.

    `low`, `high`: 95% bootstrap interval of the difference. `p`: two-sided; None where no test fits. `test`: its name.
    `wins`: questions on which the new model is better, `losses` worse.
    """

    n: int
    old: float
    new: float
    difference: float
    low: float
    high: float
    p: float | None
    test: str
    wins: int
    losses: int
    ties: int
    higher_is_better: bool = True

    @property
    def gain(self) -> float:
        """The difference in the good direction: negative is worse."""
        return self.difference if self.higher_is_better else -self.difference


def compare_values(old: Sequence[float], new: Sequence[float], *, higher_is_better: bool = True) -> Paired:
    """Compare two models whose figure is the mean of one number a question.

    The interval is the percentile bootstrap over questions. The test is McNemar's exact one where every value is 0 or
    1, else the sign-flip test of the mean difference.

    Args:
        old, new: a number for each question, in the same order.
    Raises:
        ValueError: the lengths differ, or there are no questions.
    """
    if len(old) != len(new) or not old:
        raise ValueError(f"{len(old)} old and {len(new)} new values are no pairs")
    differences = [after - before for before, after in zip(old, new, strict=True)]
    up, down = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    binary = set(old) | set(new) <= {0, 1}
    low, high = bootstrap_mean(differences)
    before, after = math.fsum(old) / len(old), math.fsum(new) / len(new)
    return Paired(
        n=len(old),
        old=before,
        new=after,
        difference=math.fsum(differences) / len(differences),
        low=low,
        high=high,
        p=mcnemar(up, down) if binary else sign_flip(differences),
        test="McNemar, exact" if binary else "sign flip",
        wins=up if higher_is_better else down,
        losses=down if higher_is_better else up,
        ties=len(old) - up - down,
        higher_is_better=higher_is_better,
    )


def compare_aggregates(
    old: Sequence[Any],
    new: Sequence[Any],
    aggregate: Callable[[Sequence[Any]], float],
    *,
    higher_is_better: bool = True,
    resamples: int = 1000,
) -> Paired:
    """Compare two models whose figure is no mean, such as perplexity or corpus BLEU: bootstrap over questions alone.

    Args:
        old, new: what `aggregate` takes of each question, in the same order.
        aggregate: many of these to the figure.
    """
    if len(old) != len(new) or not old:
        raise ValueError(f"{len(old)} old and {len(new)} new values are no pairs")
    draw = np.random.default_rng(SEED)
    found = []
    for _ in range(resamples):
        places = draw.integers(0, len(old), len(old))
        found.append(aggregate([new[place] for place in places]) - aggregate([old[place] for place in places]))
    before, after = float(aggregate(old)), float(aggregate(new))
    low, high = (float(end) for end in np.percentile(found, [2.5, 97.5]))
    singles = [aggregate([one]) - aggregate([other]) for one, other in zip(new, old, strict=True)]
    up, down = sum(each > 0 for each in singles), sum(each < 0 for each in singles)
    return Paired(
        n=len(old),
        old=before,
        new=after,
        difference=after - before,
        low=low,
        high=high,
        p=None,
        test="",
        wins=up if higher_is_better else down,
        losses=down if higher_is_better else up,
        ties=len(old) - up - down,
        higher_is_better=higher_is_better,
    )


def bootstrap_mean(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean.

    A resample is drawn as counts of the distinct values, which is the same as drawing the values one by one.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    draw = np.random.default_rng(seed)
    means: list[float] = []
    step = max(1, _AT_ONCE // len(distinct))
    while len(means) < resamples:
        size = min(step, resamples - len(means))
        drawn = draw.multinomial(len(values), counts / len(values), size=size)  # [size, distinct]
        means += (drawn @ distinct / len(values)).tolist()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact test: how likely a split at least as uneven is where both models are equally good.

    Of the questions that only one of the models got right, each is then a fair coin: the two-sided binomial test,
    min(1, 2 · sum over k ≤ min(wins, losses) of C(n, k) / 2^n) with n = wins + losses.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157; the exact form is the sign test.
    """
    total, least = wins + losses, min(wins, losses)
    tail = sum(math.comb(total, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**total)


def sign_flip(differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> float:
    """The two-sided sign-flip (paired permutation) test: how often random signs give a sum at least as far from 0.

    Up to 16 differences that are not 0 all signs are tried; for more of them signs are drawn, and the sample itself
    counts as one of the draws, so that p is never 0.

    Source: R. A. Fisher, The Design of Experiments (1935), section 21.
    """
    sizes = np.abs(np.asarray([each for each in differences if each], dtype=np.float64))
    if not len(sizes):
        return 1.0
    seen = abs(math.fsum(differences)) * (1 - 1e-12)  # sums of the same numbers in another order may differ a little
    if len(sizes) <= _ENUMERATED:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sizes))))  # [2**n, n]
        return float((np.abs(signs @ sizes) >= seen).mean())
    draw = np.random.default_rng(seed)
    extreme, done, step = 0, 0, max(1, _AT_ONCE // len(sizes))
    while done < resamples:
        size = min(step, resamples - done)
        signs = draw.integers(0, 2, size=(size, len(sizes))) * 2.0 - 1.0
        extreme += int((np.abs(signs @ sizes) >= seen).sum())
        done += size
    return (extreme + 1) / (resamples + 1)


def verdict(found: Paired) -> str:
    """The finding in plain words, such as `better: +4.1 points (95% interval 1.2 to 7.0)`.

    Shares are told in points, hundredths of the whole: values between 0 and 1 of which more is better. Better or worse
    is said where the interval leaves 0 out.
    """
    share = found.higher_is_better and all(0 <= value <= 1 for value in (found.old, found.new))
    points = found.test.startswith("McNemar") or share
    scale, unit, digits = (100.0, " points", 1) if points else (1.0, "", 4)
    span = f"(95% interval {found.low * scale:.{digits}f} to {found.high * scale:.{digits}f})"
    change = f"{found.difference * scale:+.{digits}f}{unit}"
    few = f"; {found.n} questions are few" if found.n < FEW else ""
    if not found.wins and not found.losses:
        return f"no difference: the same on all {found.n} questions{few}"
    if found.low <= 0 <= found.high:
        return f"no difference that this sample can show: {change} {span}{few}"
    return f"{'better' if found.gain > 0 else 'worse'}: {change} {span}{few}"
