"""A loss that goes up and down again and again is told from noise, and by what it follows."""

import math
import random

import numpy as np
import pytest

from burnish.runs.doctor import diagnose
from burnish.runs.doctor.evidence import Order, StepContent
from burnish.runs.doctor.waves import autocorrelation, explained, find_waves, folded, never_rising
from tests.unit.runs.doctor.test_diagnosis import names, rows_of, run_of

COUNT = 240


def falling(wave=lambda step: 0.0, scatter=0.06, count=COUNT, seed=0):
    """A loss that falls from 2 to 1, times 1 + wave(step), with noise."""
    draw = random.Random(seed)
    return [(1 + math.exp(-s / 40)) * (1 + wave(s) + draw.gauss(0, scatter)) for s in range(count)]


def saw(period, size=0.3):
    return lambda step: size * (step % period / max(1, period - 1) - 0.5)


def points_of(losses):
    return [(place + 1, loss) for place, loss in enumerate(losses)]


def with_order(run, shares, lengths=None):
    content = {
        step + 1: StepContent((share, 1 - share), lengths[step] if lengths else 50.0)
        for step, share in enumerate(shares)
    }
    return type(run)(**{**vars(run), "order": Order(("poems", "sums"), content)})


def test_isotonic_regression_is_the_nearest_curve_that_never_rises():
    assert never_rising([3.0, 1.0, 2.0, 2.0, 0.5]).tolist() == pytest.approx([3.0, 5 / 3, 5 / 3, 5 / 3, 0.5])
    falls = sorted((random.Random(0).random() for _ in range(50)), reverse=True)
    assert never_rising(falls).tolist() == falls


def test_autocorrelation_is_that_of_its_definition():
    draw = random.Random(1)
    values = np.array([draw.gauss(0, 1) for _ in range(30)])
    centred = values - values.mean()
    wanted = [(centred[: 30 - lag] * centred[lag:]).sum() / (centred**2).sum() for lag in range(11)]
    assert autocorrelation(values) == pytest.approx(wanted)


def test_shares_of_variance():
    wave = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert explained(wave, [[1, 3, 1, 3, 1, 3], [5] * 6]) == pytest.approx(1.0)
    assert explained(wave, [[1, 1, 2, 2, 3, 3]]) < 0.1
    share, means = folded(wave, [0.0, 0.5] * 3, 2)
    assert share == pytest.approx(1.0)
    assert means.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("period", [2, 5, 12, 40])
def test_a_sawtooth_is_found_with_its_period(period):
    found = find_waves(points_of(falling(saw(period))))
    assert found is not None
    assert found.period == pytest.approx(period, abs=0.05 * period)
    assert found.cycles >= min(3, COUNT // period - 2)


def test_noise_of_healthy_runs_is_none():
    shapes = [0.05, 0.15, 0.4]
    for seed in range(60):
        for scatter in shapes:
            losses = [max(loss, 0.01) for loss in falling(scatter=scatter, count=(30, 90, 400)[seed % 3], seed=seed)]
            assert find_waves(points_of(losses)) is None, (seed, scatter)


@pytest.mark.parametrize(
    "wave",
    [lambda s: 0.6 * math.exp(-(((s - 120) / 12) ** 2)), lambda s: 0.5 * max(0.0, s / COUNT - 0.6)],
    ids=["one hump", "a rise at the end"],
)
def test_what_does_not_come_again_is_none(wave):
    assert find_waves(points_of(falling(wave))) is None


def test_oscillation_of_a_high_rate(tmp_path):
    run = run_of(tmp_path, rows_of(falling(saw(20, 0.5))), learning_rate=0.02)
    [finding] = diagnose(run)
    assert (finding.name, finding.level) == ("sawtooth-rate", "problem")
    assert "every 20 steps" in finding.evidence
    assert "0.02, and 0.0001 to 0.001 is usual" in finding.advice
    told = finding.as_json()["details"]
    assert (told["cause"], told["regular"]) == ("rate", True)
    assert told["period_steps"] == pytest.approx(20, abs=1)
    [mild] = diagnose(run_of(tmp_path, rows_of(falling(saw(20, 0.5)))))
    assert mild.level == "warning"  # the rate is a usual one


def test_it_follows_the_mix(tmp_path):
    shares = [1.0 if step % 24 < 12 else 0.0 for step in range(COUNT)]
    run = run_of(tmp_path, rows_of(falling(lambda step: 0.5 * shares[step])), disable_shuffling=True)
    [finding] = diagnose(with_order(run, shares))
    assert finding.name == "sawtooth-mix"
    assert "disable_shuffling" in finding.advice
    assert finding.lines[0].startswith("poems: ")
    assert finding.details["explained"]["mix"] > 0.8


def test_it_follows_the_length_of_rows(tmp_path):
    lengths = [20.0 + 180 * (step % 30) / 29 for step in range(COUNT)]
    run = run_of(tmp_path, rows_of(falling(lambda step: 0.15 * math.log(lengths[step] / 20))))
    draw = random.Random(3)
    [finding] = diagnose(with_order(run, [draw.random() for _ in lengths], lengths))
    assert finding.name == "sawtooth-length"


def test_it_comes_again_with_each_epoch(tmp_path):
    rows, train = rows_of(falling(saw(30, -0.5))), {"epochs": 8.0, "steps": COUNT}
    assert names(run_of(tmp_path, rows, train=train, disable_shuffling=True)) == ["sawtooth-order"]
    [finding] = diagnose(run_of(tmp_path, rows, train=train))
    assert finding.name == "sawtooth-epoch"
    assert finding.details["explained"]["epoch"] > 0.5
    # The same wave, and epochs of another length.
    assert names(run_of(tmp_path, rows, train={"epochs": 3.4, "steps": COUNT})) == ["sawtooth-rate"]


def stairs(step):
    return 2.0 * 0.85 ** (step // 40)


def test_steps_between_epochs(tmp_path):
    draw, train = random.Random(0), {"epochs": 6.0, "steps": COUNT}
    losses = [stairs(step) * (1 + draw.gauss(0, 0.05)) for step in range(COUNT)]
    [finding] = diagnose(run_of(tmp_path, rows_of(losses), train=train))
    assert finding.name == "sawtooth-epoch"
    assert "on average (5 times" in finding.evidence
    assert "val_size" in finding.advice
    # The same fall in a straight line, epochs that begin elsewhere, and other rows that gain as well.
    line = [2.0 * 0.85 ** (step / 40) * (1 + draw.gauss(0, 0.05)) for step in range(COUNT)]
    assert names(run_of(tmp_path, rows_of(line), train=train)) == []
    assert names(run_of(tmp_path, rows_of(losses), train={"epochs": 3.0, "steps": COUNT})) == []
    evals = {step: 2.1 * 0.9 ** (step / 40) for step in (40, 80, 120, 160, 200, 240)}
    assert names(run_of(tmp_path, rows_of(losses, evals=evals), train=train)) == []


def test_a_schedule_that_starts_again_is_what_was_asked_for(tmp_path):
    rates = [2e-4 * (1 + math.cos(math.pi * (step % 40) / 40)) / 2 for step in range(COUNT)]
    losses = falling(lambda step: 0.4 * rates[step] / 2e-4)
    assert names(run_of(tmp_path, rows_of(losses, learning_rate=rates))) == []
    assert names(run_of(tmp_path, rows_of(losses))) == ["sawtooth-rate"]


def test_what_cannot_be_told_is_said(tmp_path):
    run = run_of(tmp_path, rows_of(falling(saw(20, 0.5))))
    run = type(run)(**{**vars(run), "order": "streamed data is not kept"})
    assert "cannot be told: streamed data is not kept" in diagnose(run)[0].evidence
