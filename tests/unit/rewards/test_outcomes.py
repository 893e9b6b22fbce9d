"""What comes of a reward function that answers, raises, is slow, or gives something that is no reward."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from burnish.errors import BurnishError
from burnish.rewards import Rewards
from burnish.rewards.records import RewardFunction


def answering(*answers, name="f"):
    """A function that gives these answers."""

    def run(call):
        call.answers[:] = answers

    return RewardFunction(run, name=name)


def test_a_weighted_sum_over_the_functions_that_answered(sample):
    found = Rewards([answering(1.0, None, None), answering(2, 3, None, name="g")], [0.5, 10.0], 5).score(
        [sample(row=row) for row in (4, 5, 6)]
    )
    assert found.values == [{"f": 1.0, "g": 2.0}, {"f": None, "g": 3.0}, {"f": None, "g": None}]
    assert found.totals == [20.5, 30.0, None]
    assert found.notes == ["sums, rows 5, 6: reward 'f' answered None", "sums, row 6: reward 'g' answered None"]


def test_numbers_of_any_kind(sample):
    given = (True, 2, np.float32(0.5), torch.tensor(0.25), np.int64(3))
    found = Rewards([answering(*given)], [1.0], 5).score([sample()] * 5)
    assert found.totals == [1.0, 2.0, 0.5, 0.25, 3.0]
    assert all(type(total) is float for total in found.totals)
    assert not found.notes


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_number_that_is_none(sample, number):
    found = Rewards([answering(number, 1.0)], [1.0], 5).score([sample(row=7), sample(row=8)])
    assert found.totals == [None, 1.0]
    assert found.notes == [f"sums, row 7: reward 'f' answered {float(number)}"]


@pytest.mark.parametrize("wrong", ["good", [1.0], np.zeros(2), torch.zeros(2), object(), 1j])
def test_something_that_is_no_number_is_an_error(sample, wrong):
    with pytest.raises(BurnishError, match=r"^reward 'f' answered .*, not a number") as caught:
        Rewards([answering(wrong)], [1.0], 5).score([sample(row=3)])
    assert caught.value.at == "reward_funcs, sums, row 3"


def test_many_samples_are_named_by_the_first_few(sample):
    many = [sample(row=row // 2, dataset="a" if row < 4 else "b") for row in range(30)]
    found = Rewards([answering(*[None] * 30)], [1.0], 5).score(many)
    assert found.notes == ["a, rows 0, 1; b, rows 2, 3, 4 and 10 more: reward 'f' answered None"]


def test_no_samples(sample):
    found = Rewards([answering()], [1.0], 5).score([])
    assert (found.values, found.totals, found.notes) == ([], [], [])


def test_a_slow_function_is_left_behind_and_the_others_count(sample, rewards, own):
    file = own(
        """
        import time
        def slow(sample):
            time.sleep(0.0 if sample.row == 1 else 1.0)
            return 1.0
        def quick(sample):
            return 2.0
        """
    )
    asked = rewards([f"{file}:slow", f"{file}:quick"], None, 0.3)
    began = time.monotonic()
    found = asked.score([sample(row=1), sample(row=2), sample(row=3)])
    assert time.monotonic() - began < 0.9
    assert found.values == [{"slow": 1.0, "quick": 2.0}, {"slow": None, "quick": 2.0}, {"slow": None, "quick": 2.0}]
    assert found.totals == [3.0, 2.0, 2.0]
    assert found.notes == ["sums, rows 2, 3: reward 'slow' took longer than 0.3 s (reward_timeout)"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_late_three_times_in_a_row_is_an_error(sample, rewards, own, kind):
    wait = "await asyncio.sleep" if kind == "async def" else "time.sleep"
    file = own(
        f"""
        import asyncio, time
        {kind} f(samples):
            {wait}(0.0 if samples[0].row == 1 else 0.5)
            return [1.0] * len(samples)
        """
    )
    asked = rewards([f"{file}:f"], None, 0.1)
    late, early = [sample(row=0)], [sample(row=1)]
    assert [asked.score(batch).totals for batch in (late, late, early, late, late)] == [[None]] * 2 + [[1.0]] + [
        [None]
    ] * 2
    with pytest.raises(BurnishError, match=r"'f' took longer than 0.1 s in 3 batches in a row") as caught:
        asked.score(late)
    assert "reward_timeout" in caught.value.fix


def test_what_raises_says_what_and_where(sample, rewards, own):
    file = own(
        """
        def each(sample):
            if sample.row == 2:
                raise ValueError("no such thing")
            return 1.0
        def batch(samples):
            return [1 / 0 for sample in samples]
        async def leaves(sample):
            raise SystemExit(3)
        """
    )
    found = rewards([f"{file}:each", f"{file}:batch"]).score([sample(row=1), sample(row=2)])
    assert found.values == [{"each": 1.0, "batch": None}, {"each": None, "batch": None}]
    assert found.notes == [
        "sums, row 2: reward 'each' raised ValueError: no such thing (mine.py, line 4)",
        "sums, rows 1, 2: reward 'batch' raised ZeroDivisionError: division by zero (mine.py, line 7)",
    ]
    assert found.totals == [1.0, None]


def test_memory_that_runs_out_is_no_missing_reward(sample, rewards, own):
    file = own("def f(sample):\n    raise MemoryError\n")
    with pytest.raises(MemoryError):
        rewards([f"{file}:f"]).score([sample()])


def test_functions_run_side_by_side(sample, rewards, own):
    file = own(
        """
        import asyncio, time
        def a(samples):
            time.sleep(0.4)
            return [1.0] * len(samples)
        async def b(sample):
            await asyncio.sleep(0.4)
            return 1.0
        """
    )
    began = time.monotonic()
    found = rewards([f"{file}:a", f"{file}:b", f"{file}:a"]).score([sample(row=row) for row in range(20)])
    assert time.monotonic() - began < 1.0  # one after another they would take 8.8 s
    assert found.values[0] == {"a": 1.0, "b": 1.0, "a_2": 1.0}


def test_a_client_of_a_coroutine_lives_from_batch_to_batch(sample, rewards, own):
    file = own(
        """
        import asyncio
        kept = []
        async def f(sample):
            kept.append(asyncio.get_running_loop())
            return float(kept[0] is kept[-1])
        """
    )
    asked = rewards([f"{file}:f"])
    assert asked.score([sample()]).totals + asked.score([sample()]).totals == [1.0, 1.0]


def test_columns_that_no_row_has(rewards):
    asked = rewards([{"name": "exact_match", "column": "answr"}])
    asked.check_columns({"answr", "x"})
    with pytest.raises(BurnishError, match=r"'exact_match' needs the column 'answr', which no row has") as caught:
        asked.check_columns({"answer", "question"})
    assert caught.value.fix == "did you mean 'answer'?"


def test_one_that_gives_up_when_its_time_is_up_was_late(sample):
    """Whether its thread has ended when it is asked or not."""
    for pause in (0.0, 0.05):
        one = RewardFunction(lambda call, pause=pause: time.sleep(pause), name="g")
        found = Rewards([one], [1.0], 0.0).score([sample(row=1)])
        assert found.notes[0] == "sums, row 1: reward 'g' took longer than 0 s (reward_timeout)"
