"""Advantages by hand: GAE on three steps, groups, leave-one-out; and what padding and lost rewards may not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.errors import ShapeError
from burnish.losses.advantages import combine_rewards, gae, group_advantages, rloo_advantages, token_rewards, whiten

NAN = float("nan")


def test_gae_of_three_steps_by_hand():
    # gamma 1/2, lam 1/2 (product 1/4); rewards 0, 0, 4; values 1, 2, 2; after the end 0.
    # delta_3 = 4 - 2 = 2;  delta_2 = 1/2 2 - 2 = -1;  delta_1 = 1/2 2 - 1 = 0
    # A_3 = 2;  A_2 = -1 + 1/4 2 = -1/2;  A_1 = 0 + 1/4 (-1/2) = -1/8;  returns A + V
    found = gae(
        torch.tensor([[0.0, 0.0, 4.0]]),
        torch.tensor([[1.0, 2.0, 2.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=0.5,
        lam=0.5,
    )
    assert found.advantages.tolist() == [[-0.125, -0.5, 2.0]]
    assert found.returns.tolist() == [[0.875, 1.5, 4.0]]


def test_gae_at_its_ends():
    torch.manual_seed(0)
    rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
    # lam 1, gamma 1: the return is the sum of all rewards to come. lam 0: one step ahead.
    torch.testing.assert_close(gae(rewards, values, mask, lam=1.0).returns, rewards.flip(1).cumsum(1).flip(1))
    ahead = torch.cat([values[:, 1:], torch.zeros(2, 1)], dim=1)
    torch.testing.assert_close(gae(rewards, values, mask, lam=0.0).advantages, rewards + ahead - values)


@pytest.mark.parametrize("holes", [[3, 4], [0, 1], [1, 3]])  # padding right, padding left, text of a tool
def test_gae_skips_masked_positions_whatever_they_hold(holes):
    torch.manual_seed(1)
    rewards, values = torch.randn(1, 5), torch.randn(1, 5)
    keep = torch.ones(1, 5, dtype=torch.bool)
    keep[0, holes] = False
    expected = gae(rewards[keep][None], values[keep][None], torch.ones(1, 3, dtype=torch.bool))
    rewards[0, holes], values[0, holes] = NAN, float("-inf")
    found = gae(rewards, values, keep)
    torch.testing.assert_close(found.advantages[keep], expected.advantages[0])
    torch.testing.assert_close(found.returns[keep], expected.returns[0])
    assert found.advantages[~keep].tolist() == found.returns[~keep].tolist() == [0, 0]


def test_whitening_as_llama_factory():
    # trl.core.masked_whiten of TRL 0.24 gave these on values 1, 2, 4, 0 (with a masked 9 in each row).
    values, mask = torch.tensor([[1.0, 2.0, 9.0], [4.0, 0.0, NAN]]), torch.tensor([[True, True, False]] * 2)
    expected = [-0.439155, 0.146385, 0.0, 1.317465, -1.024695, 0.0]
    assert whiten(values, mask).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    expected = [1.310845, 1.896385, 0.0, 3.067465, 0.725305, 0.0]
    assert whiten(values, mask, shift_mean=False).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_whitening_one_value_or_none():
    for shift_mean, expected in ((True, [0.0, 0.0]), (False, [5.0, 0.0])):
        assert whiten(torch.tensor([5.0, 7.0]), torch.tensor([True, False]), shift_mean=shift_mean).tolist() == expected
    assert whiten(torch.tensor([5.0]), torch.tensor([False])).tolist() == [0.0]


def test_token_rewards_by_hand():
    # kl_coef 1/2; log-ratios 1, -1 (row 1) and 2 (row 2, padded on the left); the score joins the last real token.
    mask = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [NAN, NAN, -1.0], [NAN, NAN, NAN]])
    ref = torch.tensor([[-2.0, -1.0, NAN], [NAN, NAN, -3.0], [NAN, NAN, NAN]])
    rewards, kl = token_rewards(torch.tensor([10.0, 20.0, 30.0]), logprobs, ref, mask, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, 10.5, 0.0], [0.0, 0.0, 19.0], [0.0, 0.0, 0.0]]
    assert kl.tolist() == [0.0, 2.0, 0.0]


def test_weighted_rewards_leave_out_functions_without_one():
    rewards = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, float("inf")]])
    found = combine_rewards(rewards, torch.tensor([1.0, 0.5]))
    assert found[:2].tolist() == [2.0, 1.0]
    assert found[2].isnan()


def test_group_advantages_by_hand():
    # Group 0: rewards 0, 2 (among those of group 1): mean 1, deviation sqrt 2 -> -+1 / (sqrt 2 + eps).
    # Group 1: rewards 5, 5, 5: no difference, no advantage.
    rewards, groups = torch.tensor([0.0, 5.0, 2.0, 5.0, 5.0]), torch.tensor([0, 1, 0, 1, 1])
    found = group_advantages(rewards, groups, 2)
    unit = 1 / (math.sqrt(2) + 1e-4)
    assert found.advantages.tolist() == pytest.approx([-unit, 0, unit, 0, 0])
    assert group_advantages(rewards, groups, 2, scale="none").advantages.tolist() == [-1, 0, 1, 0, 0]
    # All five: mean 3.4, sum of squared deviations 21.2, over 4: deviation sqrt 5.3
    whole = group_advantages(rewards, groups, 2, scale="batch").advantages
    assert whole.tolist() == pytest.approx([-1 / (math.sqrt(5.3) + 1e-4), 0, 1 / (math.sqrt(5.3) + 1e-4), 0, 0])
    figures = {name: (total / count).item() for name, (total, count) in found.figures.items()}
    assert figures["reward"] == pytest.approx(3.4)
    assert figures["reward_std"] == pytest.approx(math.sqrt(2) / 2)
    assert figures["zero_variance_groups"] == 0.5


def test_unscored_samples_leave_the_mean():
    # Mean of 1 and 3 is 2, not 4/3. Group 1 has one scored sample, group 2 none.
    rewards = torch.tensor([1.0, NAN, 3.0, 7.0, float("inf"), NAN])
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    for found in (group_advantages(rewards, groups, 3, scale="none"), rloo_advantages(rewards, groups, 3)):
        assert found.scored.tolist() == [True, False, True, True, False, False]
        assert found.advantages[[1, 3, 4, 5]].tolist() == [0, 0, 0, 0]
        assert found.advantages.isfinite().all()
        assert [part.item() for part in found.figures["unscored"]] == [3, 6]
        assert [part.item() for part in found.figures["reward"]] == [11, 3]
        assert [part.item() for part in found.figures["zero_variance_groups"]] == [1, 2]
    assert group_advantages(rewards, groups, 3, scale="none").advantages[[0, 2]].tolist() == [-1, 1]
    assert rloo_advantages(rewards, groups, 3).advantages[[0, 2]].tolist() == [-2, 2]


def test_equal_rewards_of_any_size_give_exactly_no_advantage():
    # The float32 mean of three 12345.678 is 0.001 off; over a deviation as small that would be an advantage of 0.8.
    rewards, groups = torch.tensor([12345.678] * 3 + [0.3] * 8), torch.tensor([0] * 3 + [1] * 8)
    for scale in ("group", "batch", "none"):
        assert group_advantages(rewards, groups, 2, scale=scale).advantages.tolist() == [0.0] * 11
    assert rloo_advantages(rewards, groups, 2).advantages.tolist() == [0.0] * 11


def test_rloo_with_two_by_hand():
    # k = 2: each is measured against the other. 3 - 1 = 2 and 1 - 3 = -2.
    found = rloo_advantages(torch.tensor([3.0, 1.0]), torch.tensor([0, 0]), 1)
    assert found.advantages.tolist() == [2.0, -2.0]
    # Normalised: mean 0, deviation sqrt 8.
    normalised = rloo_advantages(torch.tensor([3.0, 1.0]), torch.tensor([0, 0]), 1, normalise=True).advantages
    assert normalised.tolist() == pytest.approx([2 / (math.sqrt(8) + 1e-4), -2 / (math.sqrt(8) + 1e-4)])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5, width=32) | st.just(NAN)), min_size=1, max_size=12),
    st.floats(-3, 3, width=32),
)
def test_properties_of_group_baselines(samples, shift):
    groups, rewards = torch.tensor([group for group, _ in samples]), torch.tensor([reward for _, reward in samples])
    ours = rloo_advantages(rewards, groups, 4)
    for index, (group, reward) in enumerate(samples):
        others = [r for i, (g, r) in enumerate(samples) if g == group and i != index and not math.isnan(r)]
        expected = reward - sum(others) / len(others) if others and not math.isnan(reward) else 0.0
        assert ours.advantages[index].item() == pytest.approx(expected, abs=1e-4)
    for found in (ours, group_advantages(rewards, groups, 4)):
        summed = torch.zeros(4).index_add(0, groups, found.advantages)
        # Rewards that differ in their last bits only have a rounding of 1e-6 divided by 1e-4.
        torch.testing.assert_close(summed, torch.zeros(4), rtol=0, atol=0.1)
    moved = rloo_advantages(rewards + shift, groups, 4)
    torch.testing.assert_close(moved.advantages, ours.advantages, rtol=0, atol=1e-4)


def test_wrong_shapes_and_names():
    two = torch.zeros(2)
    with pytest.raises(ShapeError):
        group_advantages(two, torch.zeros(3, dtype=torch.long), 1)
    with pytest.raises(ShapeError):
        gae(two, two, two.bool())
    with pytest.raises(ShapeError):
        token_rewards(two, torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2).bool(), kl_coef=0.1)
    with pytest.raises(ValueError):
        group_advantages(two, torch.zeros(2, dtype=torch.long), 1, scale="std")
