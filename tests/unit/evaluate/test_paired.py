"""The statistics of a comparison, against values by hand and against every possible outcome."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from burnish.evaluate.paired import (
    bootstrap_mean,
    compare_aggregates,
    compare_values,
    mcnemar,
    sign_flip,
    verdict,
)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 · 1/2
        (5, 0, 2 / 32),
        (6, 1, 2 * (1 + 7) / 128),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(wins, losses, p):
    assert mcnemar(wins, losses) == pytest.approx(p)
    assert mcnemar(losses, wins) == mcnemar(wins, losses)


def test_mcnemar_counts_every_split_of_coins():
    for total in range(1, 9):
        for wins in range(total + 1):
            away = abs(wins - total / 2)
            coins = sum(abs(sum(flips) - total / 2) >= away for flips in product((0, 1), repeat=total))
            assert mcnemar(wins, total - wins) == pytest.approx(coins / 2**total)


def test_mcnemar_of_many_questions_is_still_a_number():
    assert 0 < mcnemar(1500, 1300) < 1e-3
    assert mcnemar(40, 0) == pytest.approx(2 / 2**40)


def test_sign_flip_tries_every_sign():
    differences = [0.5, -0.25, 1.0, 0.0, 0.75]
    nonzero = [each for each in differences if each]
    sums = [sum(s * abs(d) for s, d in zip(signs, nonzero, strict=True)) for signs in product((-1, 1), repeat=4)]
    assert sign_flip(differences) == pytest.approx(sum(abs(each) >= 2.0 for each in sums) / 16)
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([1.0] * 5) == pytest.approx(2 / 32)


def test_sign_flip_of_many_agrees_with_mcnemar():
    differences = [1.0] * 30 + [-1.0] * 15
    assert sign_flip(differences) == pytest.approx(mcnemar(30, 15), abs=0.01)
    assert sign_flip([1.0] * 40) == pytest.approx(1 / 10_001)


def test_bootstrap_of_three_values_is_the_exact_distribution():
    """All 27 resamples of three values: the interval's ends are quantiles of their means."""
    values = [0.0, 0.0, 3.0]  # the mean of a resample is how often 3 was drawn: binomial(3, 1/3)
    exact = np.cumsum([comb(3, k) * (1 / 3) ** k * (2 / 3) ** (3 - k) for k in range(4)])
    low, high = (float(np.searchsorted(exact, end)) for end in (0.025, 0.975))
    assert bootstrap_mean(values) == (low, high) == (0.0, 3.0)


def test_bootstrap_agrees_with_the_normal_interval():
    values = [1.0] * 60 + [0.0] * 30 + [-1.0] * 10
    mean, error = np.mean(values), np.std(values) / 10
    low, high = bootstrap_mean(values)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.02)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.02)
    assert bootstrap_mean(values) == (low, high)  # the seed is fixed


def test_wins_and_losses_follow_the_good_direction():
    old, new = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 5.0]
    up, down = compare_values(old, new), compare_values(old, new, higher_is_better=False)
    assert (up.wins, up.losses, up.ties) == (2, 1, 1)
    assert (down.wins, down.losses, down.ties) == (1, 2, 1)
    assert up.gain == -down.gain == up.difference == 0.0
    assert up.test == "sign flip"


def test_values_of_0_and_1_are_tested_by_mcnemar():
    found = compare_values([0, 0, 1, 1, 0], [1, 1, 1, 0, 1])
    assert (found.wins, found.losses, found.ties, found.test) == (3, 1, 1, "McNemar, exact")
    assert found.p == pytest.approx(2 * (1 + 4) / 16)
    assert found.difference == pytest.approx(0.4)


def test_a_figure_that_is_no_mean():
    def total(pairs):
        return sum(value for value, _ in pairs) / sum(weight for _, weight in pairs)

    old = [(float(each), 1 + each % 3) for each in range(40)]
    new = [(value + weight, weight) for value, weight in old]  # every ratio is one higher
    found = compare_aggregates(old, new, total)
    assert found.difference == pytest.approx(1.0)
    assert (found.low, found.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (found.wins, found.losses, found.p) == (40, 0, None)


@pytest.mark.parametrize(
    ("old", "new", "start"),
    [
        ([0] * 60 + [1] * 40, [1] * 20 + [0] * 40 + [1] * 40, "better: +20.0 points (95% interval 13.0 to 28.0)"),
        ([1] * 60 + [0] * 40, [0] * 20 + [1] * 40 + [0] * 40, "worse: -20.0 points (95% interval -28.0 to -13.0)"),
        ([0, 1] * 50, [1, 0] * 50, "no difference that this sample can show: +0.0 points"),
        ([0, 1] * 50, [0, 1] * 50, "no difference: the same on all 100 questions"),
        ([0] * 5, [1] * 5, "better: +100.0 points (95% interval 100.0 to 100.0); 5 questions are few"),
        ([3.0, 4.0] * 50, [5.0, 7.0] * 50, "better: +2.5000 (95% interval"),
    ],
)
def test_verdicts(old, new, start):
    assert verdict(compare_values(old, new)).startswith(start)


def test_lower_is_better_turns_the_verdict():
    assert verdict(compare_values([3.0] * 40, [2.0] * 40, higher_is_better=False)).startswith("better: -1.0000")


def test_unpaired_values_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        compare_values([1], [])


def test_losses_below_1_are_no_shares():
    found = compare_values([0.9] * 20 + [0.8] * 20, [0.7] * 40, higher_is_better=False)
    assert verdict(found).startswith("better: -0.1500 (95%")
    found = compare_values([0.9] * 20 + [0.8] * 20, [0.95] * 40)
    assert verdict(found).startswith("better: +10.0 points (95%")
