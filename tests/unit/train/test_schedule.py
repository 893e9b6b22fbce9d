"""The rate at hand-derived places, and schedules that could not be resumed are refused."""

import math

import pytest

from burnish.errors import BurnishError
from burnish.train.schedule import rate_by_step, warmup_optimizer_steps


def test_cosine_with_warmup():
    rate = rate_by_step("cosine", 1.0, total_steps=12, warmup=2)
    # Up in 2 steps from 0, then half a cosine over the 10 that are left.
    assert [rate(0), rate(1), rate(2)] == [0.0, 0.5, 1.0]
    assert rate(7) == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 10)))
    assert rate(12) == pytest.approx(0.0)


def test_linear():
    rate = rate_by_step("linear", 2.0, total_steps=4, warmup=0)
    assert [rate(n) for n in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]


def test_warmup_steps_win_over_the_ratio():
    assert warmup_optimizer_steps(100, 0.1, 0) == 10
    assert warmup_optimizer_steps(101, 0.1, 0) == 11
    assert warmup_optimizer_steps(100, 0.1, 5) == 5


def test_unknown_schedule():
    with pytest.raises(BurnishError, match="cannot be built"):
        rate_by_step("cosin", 1.0, 10, 0)
