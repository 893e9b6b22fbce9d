"""Policy losses by hand, the means that `loss_type` names, and what masked tokens may not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.errors import ShapeError
from burnish.losses.advantages import gae, token_rewards, whiten
from burnish.losses.policy import (
    LOSS_TYPES,
    clipped_surrogate,
    grpo_loss,
    kl_k3,
    ppo_policy_loss,
    ppo_value_loss,
    rloo_loss,
)

NAN, INF = float("nan"), float("inf")
SEQUENCES = torch.tensor([0, 0, 0, 1])
"""Four tokens: three of completion 0, one of completion 1."""


def mean(found):
    return (found.total / found.count).item()


def figure(found, name):
    total, count = found.figures[name]
    return (total / count).item()


def test_the_first_step_of_grpo_is_minus_the_mean_advantage():
    # Every ratio is 1, so each token's loss is -A. Over completions: -(2 + 4) / 2. Over tokens: -(3 2 + 4) / 4.
    # Dr. GRPO with length 5: -(3 2 + 4) / (2 5).
    logprobs, advantages = torch.tensor([-1.0, -2.0, -0.5, -3.0], requires_grad=True), torch.tensor([2.0, 4.0])
    expected = {"grpo": (-6.0, 2), "bnpo": (-10.0, 4), "dapo": (-10.0, 4), "dr_grpo": (-10.0, 10)}
    for loss_type in LOSS_TYPES:
        for importance in ("token", "sequence"):
            options = {"loss_type": loss_type, "importance": importance, "max_completion_length": 5}
            found = grpo_loss(logprobs, None, advantages, SEQUENCES, **options)
            assert (found.total.item(), found.count.item()) == expected[loss_type]
            assert figure(found, "approx_kl") == figure(found, "clip_ratio/high") == 0
    # d(-rho A)/d log pi = -A at rho = 1, over 3 tokens and over 1.
    (slope,) = torch.autograd.grad(grpo_loss(logprobs, None, advantages, SEQUENCES).total, logprobs)
    assert slope.tolist() == pytest.approx([-2 / 3, -2 / 3, -2 / 3, -4.0])


def test_the_clip_by_hand():
    # Ratios 2, 1/2, 2, 1/2, 1 with clip 0.2 / 0.3 and advantages 1, 1, -1, -1, 1:
    # min(2, 1.3) = 1.3 clipped high; min(1/2, 0.8) = 1/2; min(-2, -1.3) = -2; min(-1/2, -0.8) = -0.8 clipped low; 1.
    log_ratio = torch.tensor([2.0, 0.5, 2.0, 0.5, 1.0]).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])
    found = clipped_surrogate(log_ratio, advantages, clip_low=0.2, clip_high=0.3)
    assert found.losses.tolist() == pytest.approx([-1.3, -0.5, 2.0, 0.8, -1.0])
    assert found.high.tolist() == [True, False, False, False, False]
    assert found.low.tolist() == [False, False, False, True, False]
    (slope,) = torch.autograd.grad(found.losses.sum(), log_ratio)
    assert slope.tolist() == pytest.approx([0.0, -0.5, 2.0, 0.0, -1.0])  # -rho A where not clipped
    # delta 1.5 bounds the third: min(1.5 (-1), -1.3) = -1.5
    bounded = clipped_surrogate(log_ratio, advantages, clip_low=0.2, clip_high=0.3, delta=1.5)
    assert bounded.losses.tolist() == pytest.approx([-1.3, -0.5, 1.5, 0.8, -1.0])


def test_a_sequence_has_one_ratio():
    # Log-ratios ln 2, ln 2, -2 ln 2 over three tokens: geometric mean 1, loss -A, though two tokens alone would be cut.
    new = torch.tensor([math.log(2), math.log(2), -2 * math.log(2)]) - 3
    found = grpo_loss(new, torch.full((3,), -3.0), torch.tensor([5.0]), SEQUENCES[:3], importance="sequence")
    assert mean(found) == pytest.approx(-5.0)
    assert figure(found, "clip_ratio/high") == 0
    assert [part.item() for part in found.figures["clip_ratio/low"]] == [0, 1]  # one ratio, not three


def test_kl_by_hand():
    # p = 1/2 under the policy, 1/4 under the reference: d = -ln 2, e^d - d - 1 = 1/2 + ln 2 - 1.
    new, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_k3(new, ref).item() == pytest.approx(math.log(2) - 0.5, rel=1e-6)
    found = grpo_loss(new, None, torch.tensor([3.0]), torch.tensor([0]), ref_logprobs=ref, kl_coef=0.1)
    assert mean(found) == pytest.approx(-3.0 + 0.1 * (math.log(2) - 0.5), rel=1e-6)
    assert figure(found, "kl") == pytest.approx(math.log(2) - 0.5, rel=1e-6)


def test_k3_is_unbiased():
    policy, reference = torch.randn(6).log_softmax(0), torch.randn(6).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_k3(policy, reference)).sum(), exact)


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_masked_tokens_leave_loss_gradient_and_denominator(loss_type, importance):
    torch.manual_seed(0)
    options = {"loss_type": loss_type, "importance": importance, "kl_coef": 0.1, "max_completion_length": 5}
    short = -torch.rand(4).requires_grad_()
    old, ref, advantages = -torch.rand(4), -torch.rand(4), torch.tensor([1.0, -2.0])
    plain = grpo_loss(short, old, advantages, SEQUENCES, ref_logprobs=ref, **options)
    # A tool's text in completion 0, and all of completions 2 (unscored: its advantage is not even a number).
    keep = torch.tensor([True, True, False, True, True, False, False])
    sequences = torch.tensor([0, 0, 0, 0, 1, 2, 2])

    def long(values):
        return torch.tensor([0.0, 0.0, -INF, 0.0, 0.0, NAN, INF]).masked_scatter(keep, values)

    logprobs = long(short.detach()).requires_grad_()
    found = grpo_loss(
        logprobs,
        long(old),
        torch.tensor([1.0, -2.0, NAN]),
        sequences,
        mask=keep,
        ref_logprobs=long(ref),
        **options,
    )
    torch.testing.assert_close(found.total, plain.total)
    assert found.count.item() == plain.count.item()
    (slope,) = torch.autograd.grad(found.total, logprobs)
    assert slope[~keep].tolist() == [0, 0, 0]
    torch.testing.assert_close(slope[keep], torch.autograd.grad(plain.total, short)[0])
    for name in plain.figures:
        assert figure(found, name) == pytest.approx(figure(plain, name), abs=1e-6)
        assert found.figures[name][1].item() == plain.figures[name][1].item()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_batch_in_two_parts_gives_the_same_mean(loss_type):
    torch.manual_seed(1)
    logprobs, old, sequences = -torch.rand(4), -torch.rand(4), SEQUENCES
    options = {"loss_type": loss_type, "max_completion_length": 5}
    whole = grpo_loss(logprobs, old, torch.tensor([1.0, -2.0]), sequences, **options)
    first = grpo_loss(logprobs[:3], old[:3], torch.tensor([1.0]), sequences[:3], **options)
    second = grpo_loss(logprobs[3:], old[3:], torch.tensor([-2.0]), torch.tensor([0]), **options)
    torch.testing.assert_close(first.total + second.total, whole.total)
    assert (first.count + second.count).item() == whole.count.item()


def test_all_masked_costs_nothing():
    logprobs, none = torch.tensor([-1.0, -INF, NAN, -1.0], requires_grad=True), torch.zeros(4, dtype=torch.bool)
    for loss_type in LOSS_TYPES:
        options = {"mask": none, "loss_type": loss_type, "max_completion_length": 5}
        found = grpo_loss(logprobs, None, torch.tensor([1.0, 2.0]), SEQUENCES, **options)
        assert (found.total.item(), found.count.item()) == (0, 0)
        assert torch.autograd.grad(found.total, logprobs)[0].tolist() == [0, 0, 0, 0]
    for found in (
        ppo_policy_loss(logprobs, logprobs.detach(), torch.ones(4), none),
        ppo_value_loss(logprobs, logprobs.detach(), torch.ones(4), none),
        rloo_loss(logprobs, logprobs.detach(), torch.ones(4), none),
    ):
        assert (found.total.item(), found.count.item()) == (0, 0)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e4, 0), min_size=3, max_size=3),
    st.sampled_from([-3.0, 0.0, 3.0]),
    st.sampled_from(["token", "sequence"]),
)
def test_any_finite_log_probability_gives_a_finite_gradient(values, advantage, importance):
    new, old, ref = (torch.tensor([value]) for value in values)
    new.requires_grad_()
    found = grpo_loss(
        new, old, torch.tensor([advantage]), torch.tensor([0]), importance=importance, ref_logprobs=ref, kl_coef=0.1
    )
    assert found.total.isfinite()
    assert torch.autograd.grad(found.total, new)[0].isfinite().all()


def test_ppo_by_hand():
    # Ratios 1 and 2, clip 0.2, advantages 3 and 1: -3 and -1.2; a third token is masked. As TRL 0.24's PPOTrainer:
    # masked mean of max(-A rho, -A clip(rho)).
    logprobs = torch.tensor([[-1.0, -1.0 + math.log(2), NAN]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    found = ppo_policy_loss(logprobs, torch.tensor([[-1.0, -1.0, 0.0]]), torch.tensor([[3.0, 1.0, 9.0]]), mask)
    assert found.total.item() == pytest.approx(-4.2)
    assert found.count.item() == 2
    assert figure(found, "clip_ratio/high") == 0.5
    # E under the sampler of e^d - d - 1 with d = 0 and ln 2: (0 + 1 - ln 2) / 2
    assert figure(found, "approx_kl") == pytest.approx((1 - math.log(2)) / 2, rel=1e-5)
    assert torch.autograd.grad(found.total, logprobs)[0].tolist() == [[-3.0, 0.0, 0.0]]


def test_the_value_loss_by_hand():
    # V_old 0, clip 0.2. V = 1 against R = 2: 1/2 max(1, (0.2 - 2)^2 = 3.24), gradient 0 beyond the clip.
    # V = 1 against R = -1: 1/2 max(4, 1.44), gradient V - R = 2. V = 0.1 against R = 0: inside, 0.005.
    values = torch.tensor([1.0, 1.0, 0.1, NAN], requires_grad=True)
    mask = torch.tensor([True, True, True, False])
    found = ppo_value_loss(values, torch.zeros(4), torch.tensor([2.0, -1.0, 0.0, 0.0]), mask)
    assert found.total.item() == pytest.approx(1.62 + 2.0 + 0.005)
    assert found.count.item() == 3
    assert figure(found, "value_clip_ratio") == pytest.approx(1 / 3)
    (slope,) = torch.autograd.grad(found.total, values)
    assert slope.tolist() == pytest.approx([0.0, 2.0, 0.1, 0.0])


def test_rloo_by_hand():
    # Whole completions of ratio 1 and 2 with advantages 2 and -2: -2 and 4; the third is unscored.
    new, old = torch.tensor([-5.0, -5.0 + math.log(2), -1.0]), torch.tensor([-5.0, -5.0, -9.0])
    found = rloo_loss(new, old, torch.tensor([2.0, -2.0, NAN]), torch.tensor([True, True, False]))
    assert found.total.item() == pytest.approx(2.0, rel=1e-6)
    assert found.count.item() == 2


def test_bfloat16_is_computed_in_float32():
    half = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16)
    found = grpo_loss(half, half, torch.tensor([0.3], dtype=torch.bfloat16), torch.tensor([0, 0]))
    assert found.total.dtype == torch.float32
    assert ppo_value_loss(half, half, half, half < 0).total.dtype == torch.float32


def test_wrong_shapes_and_names():
    two, advantages, sequences = torch.zeros(2), torch.zeros(1), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ShapeError):
        grpo_loss(two, torch.zeros(3), advantages, sequences)
    with pytest.raises(ShapeError):
        grpo_loss(two, None, advantages, sequences, kl_coef=0.1)
    with pytest.raises(ShapeError):
        ppo_policy_loss(two, two, advantages, two.bool())
    with pytest.raises(ShapeError):
        ppo_value_loss(two, two, advantages, two.bool())
    with pytest.raises(ShapeError):
        rloo_loss(two, two, advantages)
    for options in ({"loss_type": "ppo"}, {"importance": "word"}, {"loss_type": "dr_grpo"}):
        with pytest.raises(ValueError):
            grpo_loss(two, None, advantages, sequences, **options)


class TestPPOAsLLaMAFactory:
    """One rollout through rewards, GAE, whitening and both losses, against the PPO that LLaMA-Factory runs.

    The numbers are those of `compute_rewards`, `compute_advantages` and `loss` of TRL 0.9.6's PPOTrainer (the newest
    that LLaMA-Factory's PPO accepts), called on these inputs with a KL coefficient of 0.1, gamma 0.9, lambda 0.8 and
    clips of 0.2.
    """

    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    old = torch.tensor([[-1.0, -0.5, -2.0, -0.1], [-3.0, -1.5, 0.0, 0.0]])
    ref = torch.tensor([[-1.5, -0.4, -1.0, -0.3], [-2.0, -1.0, 0.0, 0.0]])
    values = torch.tensor([[0.2, 0.5, -0.3, 0.8], [1.0, -0.2, 0.0, 0.0]])

    def rewards(self):
        return token_rewards(torch.tensor([2.0, -1.0]), self.old, self.ref, self.mask, kl_coef=0.1)

    def estimate(self):
        return gae(self.rewards()[0], self.values, self.mask, gamma=0.9, lam=0.8)

    def test_rewards(self):
        rewards, kl = self.rewards()
        torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.01, 0.1, 1.98], [0.1, -0.95, 0.0, 0.0]]))
        torch.testing.assert_close(kl, torch.tensor([-0.4, -1.5]))

    def test_returns_and_advantages(self):
        found = self.estimate()
        returns = torch.tensor([[0.8738407, 1.1581122, 1.6696, 1.98], [-0.62, -0.95, 0.0, 0.0]])
        torch.testing.assert_close(found.returns, returns)
        white = torch.tensor([[0.2454198, 0.2334287, 1.2332727, 0.6313023], [-1.5033443, -0.8400791, 0.0, 0.0]])
        torch.testing.assert_close(whiten(found.advantages, self.mask), white)

    def test_whitened_rewards(self):
        # Of the row without padding: TRL's whitening put a reward on padded positions too, and GAE carried it back.
        rewards = whiten(self.rewards()[0], self.mask, shift_mean=False)
        found = gae(rewards, self.values, self.mask, gamma=0.9, lam=0.8)
        torch.testing.assert_close(found.returns[0], torch.tensor([0.8833893, 1.1856873, 1.7187541, 2.0539372]))

    def test_losses(self):
        found = self.estimate()
        new = torch.tensor([[-0.7, -0.6, -1.5, -0.1], [-2.0, -2.5, 0.0, 0.0]], requires_grad=True)
        policy = ppo_policy_loss(new, self.old, whiten(found.advantages, self.mask), self.mask)
        assert mean(policy) == pytest.approx(0.3569381, abs=1e-6)
        assert figure(policy, "clip_ratio/low") + figure(policy, "clip_ratio/high") == pytest.approx(0.5)
        slope = torch.tensor([[0.0, -0.0352025, 0.0, -0.1052171], [0.6810856, 0.0, 0.0, 0.0]])
        torch.testing.assert_close(torch.autograd.grad(policy.total / policy.count, new)[0], slope)
        heads = torch.tensor([[0.5, 0.6, 0.3, 0.7], [0.5, -0.9, 0.0, 0.0]], requires_grad=True)
        value = ppo_value_loss(heads, self.values, found.returns, self.mask)
        assert mean(value) == pytest.approx(0.6353999, abs=1e-6)
        assert figure(value, "value_clip_ratio") == pytest.approx(0.6667, abs=1e-4)
        slope = torch.tensor([[0.0, -0.093019, 0.0, -0.213333], [0.0] * 4])
        gradient = torch.autograd.grad(value.total / value.count, heads)[0]
        torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-6)
