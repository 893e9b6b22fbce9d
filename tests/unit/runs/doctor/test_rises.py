"""A rise of the loss is told from the noise of small batches."""

import math
import random

import pytest

from burnish.runs.doctor.rises import FEWEST, find_rise, scatter

HEALTHY = {
    "flat": lambda part: 2.0,
    "slow": lambda part: 2.0 - 0.6 * part,
    "falling": lambda part: 1.0 + math.exp(-5 * part),
    "learned": lambda part: 0.1 + 1.9 * math.exp(-6 * part),
}
NOISE = {
    "batches of many rows": lambda draw: 1 + 0.1 * draw.gauss(0, 1),
    "of a few": lambda draw: math.exp(0.3 * draw.gauss(0, 1)),
    "of one": lambda draw: math.exp(0.7 * draw.gauss(0, 1)),
    "one with some hard rows": lambda draw: (3.0 if draw.random() < 0.1 else 0.8) * math.exp(0.3 * draw.gauss(0, 1)),
}
RISING = {
    "to three times": lambda part: 2.0 + 4.0 * part,
    "after it fell": lambda part: 0.6 + 1.4 * math.exp(-6 * part) if part < 0.7 else 3.2,
    "before it fell": lambda part: 2.0 if part < 0.04 else 7.0 if part < 0.3 else 1.0 + 4.0 * math.exp(-5 * part),
}


def series(course, noise, count, seed):
    draw = random.Random(f"{seed}/{count}")
    return [course(step / count) * noise(draw) for step in range(count)]


@pytest.mark.parametrize("course", HEALTHY)
def test_noise_is_no_rise(course):
    """In less than one of 300 healthy runs of each length: 200 of each kind of noise."""
    for count in (FEWEST, 24, 100):
        found = [
            find_rise(series(HEALTHY[course], noise, count, seed)) for noise in NOISE.values() for seed in range(200)
        ]
        assert sum(each is not None for each in found) < len(found) / 300, count


@pytest.mark.parametrize("course", RISING)
def test_rises_are_found_in_noise(course):
    for noise, count in (("batches of many rows", 60), ("of a few", 200), ("one with some hard rows", 400)):
        found = [find_rise(series(RISING[course], NOISE[noise], count, seed)) for seed in range(20)]
        assert sum(each is not None for each in found) >= 19, noise


def test_what_is_told():
    level = [2.0 + 0.01 * (step % 3) for step in range(40)]
    end = find_rise([*level, *(value + 2.0 for value in level)])
    assert end is not None
    assert (end.kind, round(end.low), round(end.high), round(end.last)) == ("end", 2, 4, 4)
    high = [value + 4.0 for value in level]
    peak = find_rise([*level[:10], *high, *(value - 1.0 for value in level)])
    assert peak is not None
    assert (peak.kind, round(peak.high), round(peak.last)) == ("peak", 6, 1)
    again = find_rise([*high, *(value - 1.5 for value in level), *level])
    assert again is not None
    assert (again.kind, round(again.low, 1), round(again.high)) == ("again", 0.5, 2)


def test_odd_batches_and_short_runs_are_no_rise():
    level = [2.0 - 0.005 * step for step in range(100)]
    for place in (20, 21, 60, 97):
        level[place] = 9.0
    assert find_rise(level) is None
    assert find_rise([2.0, 4.0, 8.0, 16.0]) is None  # too few to know how they scatter
    assert find_rise([2.0, 2.1, 4.0, 6.0, 8.0, 8.1, 8.0, 8.2]) is not None
    assert find_rise([1e-9, 2e-9, 1e-9, 5e-3, 6e-3, 5e-3, 6e-3]) is None  # next to nothing before and after
    assert find_rise([0.0] * 10) is None


def test_scatter_is_a_share_of_the_loss_and_blind_to_a_slope():
    draw = random.Random(0)
    losses = [(5.0 - 0.002 * step) * math.exp(0.4 * draw.gauss(0, 1)) for step in range(2000)]
    assert scatter(losses) == pytest.approx(0.4, rel=0.05)
    assert scatter([math.exp(-0.1 * step) for step in range(40)]) == pytest.approx(0.0, abs=1e-9)
