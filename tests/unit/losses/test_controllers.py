"""The states of PPO: by hand, at their edges, and through a checkpoint."""

import json
import math

import pytest
import torch

from burnish.losses.controllers import AdaptiveKL, ScoreNorm


def test_the_kl_controller_by_hand():
    # Error 6.6 / 6 - 1 = 0.1: times 1 + 0.1 1000 / 10000. Errors are cut at +-0.2.
    controller = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    controller.update(6.6, 1000)
    assert controller.value == pytest.approx(0.2 * 1.01)
    controller.update(600.0, 1000)
    assert controller.value == pytest.approx(0.2 * 1.01 * 1.02)
    controller.update(-3.0, 1000)
    assert controller.value == pytest.approx(0.2 * 1.01 * 1.02 * 0.98)


def test_a_kl_that_is_no_number_and_a_fixed_coefficient_change_nothing():
    controller, fixed = AdaptiveKL(0.2), AdaptiveKL(0.2, target=None)
    controller.update(math.nan, 100)
    fixed.update(100.0, 100)
    assert controller.value == fixed.value == 0.2


def test_running_scores_equal_those_of_all_at_once():
    torch.manual_seed(0)
    scores, norm = torch.randn(20) * 3 + 100, ScoreNorm()
    for part in scores.split([1, 7, 12]):
        norm.update(part)
    assert norm.mean == pytest.approx(scores.mean().item())
    assert norm.std == pytest.approx(scores.std().item())
    again = norm.normalised(scores)
    assert again.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert again.std().item() == pytest.approx(1.0, rel=1e-5)


def test_first_equal_and_lost_scores():
    norm = ScoreNorm()
    norm.update(torch.tensor([math.nan]))
    norm.update(torch.tensor([3.0]))
    assert norm.normalised(torch.tensor([3.0, 5.0])).tolist() == pytest.approx([0.0, 2.0])  # no deviation known yet
    norm.update(torch.tensor([3.0, math.inf]))
    assert (norm.count, norm.mean, norm.std) == (2, 3.0, 1.0)
    assert norm.normalised(torch.tensor([math.nan])).isnan().all()


def test_states_go_through_a_checkpoint():
    controller, norm = AdaptiveKL(), ScoreNorm()
    controller.update(9.0, 50)
    norm.update(torch.tensor([1.0, 4.0, 2.0]))
    state = json.loads(json.dumps([controller.state_dict(), norm.state_dict()]))
    resumed, resumed_norm = AdaptiveKL(), ScoreNorm()
    resumed.load_state_dict(state[0])
    resumed_norm.load_state_dict(state[1])
    for one in (controller, resumed):
        one.update(2.0, 50)
    for one in (norm, resumed_norm):
        one.update(torch.tensor([7.0]))
    assert resumed.value == controller.value
    assert (resumed_norm.count, resumed_norm.mean, resumed_norm.std) == (norm.count, norm.mean, norm.std)
