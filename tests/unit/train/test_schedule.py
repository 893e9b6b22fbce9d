"""The rate at every step is that of transformers' own scheduler, from the start and from the middle of a run."""

import math

import pytest
import torch
from torch import nn
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from burnish import log
from burnish.config.catalogue import LATER_VALUES, choices_of, find
from burnish.errors import BurnishError
from burnish.train.schedule import rate_by_step, warmup_optimizer_steps

TOTAL, WARMUP = 13, 3
SCHEDULES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"num_cycles": 2}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.0, "lr_end": 1e-5}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 5}),
    ("cosine_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-4, "warmup_lr_rate": 0.3}),
    ("warmup_stable_decay", {"num_decay_steps": 4}),
    ("warmup_stable_decay", {"num_decay_steps": 4, "num_stable_steps": 6, "decay_type": "1-sqrt", "min_lr_ratio": 0.2}),
    ("warmup_stable_decay", {"num_decay_steps": 10, "warmup_type": "cosine", "decay_type": "linear"}),
]


def stepped(name, options, warmup):
    """The rates with which transformers' scheduler makes a real optimizer step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    scheduler = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=dict(options))
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_every_step_is_that_of_transformers(name, options, warmup):
    rate = rate_by_step(name, 2e-3, TOTAL, warmup, options)
    expected = stepped(name, options, warmup)
    assert [rate(step) for step in range(TOTAL)] == expected
    assert len(set(expected)) > 1 or name.startswith("constant")
    resumed = rate_by_step(name, 2e-3, TOTAL, warmup, options)  # of a run that goes on after step 7: no state needed
    assert [resumed(step) for step in range(7, TOTAL)] == expected[7:]


def test_every_schedule_of_transformers_is_here_or_named_as_later():
    tried = {name for name, _ in SCHEDULES}
    later = {value for key, value in LATER_VALUES if key == "lr_scheduler_type"}
    assert tried == set(choices_of(find("lr_scheduler_type").field))
    assert tried | later == {kind.value for kind in SchedulerType}


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


@pytest.mark.parametrize("steps", [0, 0.05, 0.333, 1, 7.0])
def test_warmup_steps_below_one_are_a_share_as_in_transformers(steps, tmp_path):
    from transformers import TrainingArguments

    theirs = TrainingArguments(str(tmp_path), warmup_steps=steps, use_cpu=True).get_warmup_steps(101)
    assert warmup_optimizer_steps(101, 0.0, steps) == theirs


@pytest.mark.parametrize(
    ("name", "options", "rate"),
    [
        ("cosin", {}, 1.0),
        ("linear", {"num_cycles": 2}, 1.0),
        ("cosine", {"num_cycles": "two"}, 1.0),
        ("polynomial", {"lr_end": 2.0}, 1.0),
        ("inverse_sqrt", {"timescale": 0}, 1.0),
        ("cosine_with_min_lr", {"min_lr": 1e-5}, 0.0),
        ("warmup_stable_decay", {"num_decay_steps": 2, "decay_type": "square"}, 1.0),
    ],
)
def test_what_cannot_be_built_is_said_before_the_first_step(name, options, rate):
    with pytest.raises(BurnishError, match="cannot be built") as caught:
        rate_by_step(name, rate, 10, 3, options)  # the warm-up hides a formula that breaks only after it
    assert "lr_scheduler" in caught.value.at


def test_phases_that_do_not_fit():
    with pytest.raises(BurnishError, match="3 steps of warm-up, and 9 of decay do not fit into 10 steps"):
        rate_by_step("warmup_stable_decay", 1.0, 10, 3, {"num_decay_steps": 9})


def test_phases_that_end_before_the_run_are_said(monkeypatch):
    said = []
    monkeypatch.setattr(log, "note", said.append)
    rate = rate_by_step("warmup_stable_decay", 1.0, 10, 2, {"num_decay_steps": 2, "num_stable_steps": 3})
    assert [rate(6), rate(7), rate(9)] == [0.5, 0, 0]
    assert said[0].startswith("the schedule ends after 7 of 10 steps; from there on the rate is 0 times its height")


def test_a_schedule_that_depends_on_more_than_the_step():
    with pytest.raises(BurnishError, match="does not depend on the step alone"):
        rate_by_step("reduce_lr_on_plateau", 1.0, 10, 0)
