"""Every loss that TRL has too gives TRL's value and TRL's gradient to 1e-5 on the same log-probabilities."""

import pytest
import torch

from burnish.losses.advantages import group_advantages
from burnish.losses.kto import kto_loss, mismatched_kl
from burnish.losses.logprobs import sequence_logprobs
from burnish.losses.policy import grpo_loss, rloo_loss
from burnish.losses.preference import Pairs, kto_pair, odds_ratio, preference_loss
from burnish.losses.reward import pairwise_reward_loss
from tests.unit.losses import trl_stand_ins

pytest.importorskip("trl")


def mean(scored):
    return scored.total / scored.count


def figure(scored, name):
    total, count = scored.figures[name]
    return (total / count).item()


def same(ours, theirs, *inputs):
    """Equal values, and equal gradients with respect to each input."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    our_gradients = torch.autograd.grad(ours, inputs, retain_graph=True)
    their_gradients = torch.autograd.grad(theirs, inputs, retain_graph=True)
    assert any(gradient.abs().max() > 1e-4 for gradient in our_gradients)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5)


def tokens(seed, lengths):
    """Log-probabilities of completions of these lengths, flat, with the index of each token's completion."""
    torch.manual_seed(seed)
    flat = (-torch.rand(sum(lengths)) * 3 - 0.01).requires_grad_()
    return flat, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


CHOSEN, REJECTED = [3, 1, 7, 4], [5, 2, 2, 9]


def pairs_of(chosen, rejected, ref_chosen=None, ref_rejected=None):
    (c, c_index), (r, r_index) = chosen, rejected
    c, r = sequence_logprobs(c, c_index, len(CHOSEN)), sequence_logprobs(r, r_index, len(REJECTED))
    return Pairs(c.total, r.total, c.count, r.count, ref_chosen, ref_rejected)


@pytest.mark.parametrize(
    ("theirs", "options"),
    [
        ("sigmoid", {"pref_loss": "sigmoid"}),
        ("hinge", {"pref_loss": "hinge"}),
        ("ipo", {"pref_loss": "ipo"}),
        ("robust", {"pref_loss": "robust", "label_smoothing": 0.2}),
        ("sigmoid_norm", {"pref_loss": "sigmoid", "length_normalised": True}),
    ],
)
def test_dpo(theirs, options):
    chosen, rejected = tokens(0, CHOSEN), tokens(1, REJECTED)
    torch.manual_seed(2)
    ref_chosen, ref_rejected = -torch.rand(4) * 8, -torch.rand(4) * 8
    ours = preference_loss(pairs_of(chosen, rejected, ref_chosen, ref_rejected), beta=0.3, **options)
    loss, metrics = trl_stand_ins.dpo(
        theirs,
        (chosen[0], CHOSEN),
        (rejected[0], REJECTED),
        ref_chosen,
        ref_rejected,
        beta=0.3,
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    same(mean(ours), loss, chosen[0], rejected[0])
    for name in ("logps/chosen", "logps/rejected"):
        assert figure(ours, name) == pytest.approx(metrics[name], abs=1e-5)
    if theirs in ("sigmoid", "hinge", "robust"):  # TRL's rewards stay sums where the loss compares means
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            assert figure(ours, name) == pytest.approx(metrics[name], abs=1e-5)


def test_conservative_dpo():
    # TRL 1.16 reads label_smoothing for "sigmoid" no more; its "aot" on one pair (nothing to sort) is the same formula.
    lengths = ([4], [6])
    chosen, rejected = (tokens(seed, part) for seed, part in enumerate(lengths))
    reference = torch.tensor([-3.0]), torch.tensor([-8.0])
    pairs = Pairs(chosen[0].sum()[None], rejected[0].sum()[None], torch.tensor([4]), torch.tensor([6]), *reference)
    ours = preference_loss(pairs, beta=0.5, label_smoothing=0.1)
    loss, _ = trl_stand_ins.dpo("aot", (chosen[0], [4]), (rejected[0], [6]), *reference, beta=0.5, label_smoothing=0.1)
    same(mean(ours), loss, chosen[0], rejected[0])


def test_ftx_is_the_chosen_mean_log_probability():
    chosen, rejected = tokens(3, CHOSEN), tokens(4, REJECTED)
    reference = torch.full((4,), -5.0), torch.full((4,), -6.0)
    arguments = (chosen[0], CHOSEN), (rejected[0], REJECTED), *reference
    ours = preference_loss(pairs_of(chosen, rejected, *reference), beta=0.1, pref_ftx=0.7)
    by_pair = torch.stack([-part.mean() for part in chosen[0].split(CHOSEN)]).mean()
    same(mean(ours), trl_stand_ins.dpo("sigmoid", *arguments, beta=0.1)[0] + 0.7 * by_pair, chosen[0], rejected[0])


def test_simpo():
    chosen, rejected = tokens(5, CHOSEN), tokens(6, REJECTED)
    pairs = pairs_of(chosen, rejected)
    ours = preference_loss(pairs, "simpo", beta=2.0, simpo_gamma=0.7)
    averages = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    same(mean(ours), trl_stand_ins.cpo("simpo", *averages, beta=2.0, gamma=0.7).mean(), chosen[0], rejected[0])


def test_orpo():
    chosen, rejected = tokens(7, CHOSEN), tokens(8, REJECTED)
    pairs = pairs_of(chosen, rejected)
    averages = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    ours = preference_loss(pairs, "orpo", beta=0.25)
    same(
        mean(ours),
        -averages[0].mean() - trl_stand_ins.orpo(*averages, beta=0.25).mean(),
        chosen[0],
        rejected[0],
    )
    # Near certainty (p = 0.9999) both keep their digits.
    sure = torch.tensor([-1e-4], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    same(odds_ratio(*sure).sum(), -trl_stand_ins.orpo(*sure, beta=1.0).sum(), *sure)


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_kto(shift):
    torch.manual_seed(9)
    policy = (-torch.rand(7) * 9).requires_grad_()
    reference, kl_policy = -torch.rand(7) * 9, -torch.rand(7) * 9
    labels = torch.tensor([True, False, True, True, False, True, True])
    kl_reference = kl_policy - torch.rand(7) + shift  # KL above 0, and below 0, where it is clamped
    ours = kto_loss(
        policy,
        reference,
        labels,
        mismatched_kl(kl_policy, kl_reference),
        beta=0.2,
        desirable_weight=0.8,
        undesirable_weight=1.5,
    )
    loss, metrics = trl_stand_ins.kto(policy, reference, labels, kl_policy, kl_reference, 0.2, 0.8, 1.5)
    same(mean(ours), loss, policy)
    for name in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "kl"):
        assert figure(ours, name) == pytest.approx(metrics[name], abs=1e-5)
    assert (metrics["kl"] == 0) == (shift > 1)


def test_kto_pair_is_kto_with_each_half_as_the_others_kl():
    torch.manual_seed(10)
    chosen, rejected = (torch.randn(4).requires_grad_() for _ in range(2))
    zeros, both = torch.zeros(4), torch.cat([chosen, rejected])
    labels = torch.tensor([True] * 4 + [False] * 4)
    on_chosen, _ = trl_stand_ins.kto(both, torch.zeros(8), labels, rejected.detach(), zeros, 0.3, 1.0, 0.0)
    on_rejected, _ = trl_stand_ins.kto(both, torch.zeros(8), labels, chosen.detach(), zeros, 0.3, 0.0, 1.0)
    same(kto_pair(chosen, rejected, beta=0.3).mean(), on_chosen + on_rejected, chosen, rejected)


@pytest.mark.parametrize("margins", [None, torch.tensor([0.5, 0.0, 2.0])])
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_reward(margins, centring):
    torch.manual_seed(11)
    chosen, rejected = (torch.randn(3).requires_grad_() for _ in range(2))
    ours = pairwise_reward_loss(chosen, rejected, margins=margins, centring=centring)
    loss, metrics = trl_stand_ins.reward(chosen, rejected, margins, centring)
    same(mean(ours), loss, chosen, rejected)
    assert figure(ours, "rewards/accuracies") == pytest.approx(metrics["accuracy"])
    assert figure(ours, "rewards/margins") == pytest.approx(metrics["margin"], abs=1e-6)


LENGTHS = [4, 1, 6, 3]


@pytest.mark.parametrize("delta", [None, 1.6])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_grpo(loss_type, importance, beta, delta):
    logprobs, sequences = tokens(12, LENGTHS)
    torch.manual_seed(13)
    old, ref = (logprobs.detach() + torch.randn(len(logprobs)) * 0.5 for _ in range(2))
    advantages = torch.tensor([1.3, -0.4, -1.1, 0.6])
    mask = torch.ones(len(logprobs), dtype=torch.bool)
    mask[6:8] = False  # text of a tool in the third completion
    ours = grpo_loss(
        logprobs,
        old,
        advantages,
        sequences,
        mask=mask,
        loss_type=loss_type,
        importance=importance,
        clip_low=0.2,
        clip_high=0.28,
        delta=delta,
        ref_logprobs=ref,
        kl_coef=beta,
        max_completion_length=8,
    )
    loss, metrics = trl_stand_ins.grpo(
        logprobs,
        old,
        advantages,
        LENGTHS,
        mask,
        loss_type=loss_type,
        importance=importance,
        low=0.2,
        high=0.28,
        delta=delta,
        ref=ref,
        beta=beta,
        longest=8,
    )
    same(mean(ours), loss, logprobs)
    assert figure(ours, "clip_ratio/low") == pytest.approx(metrics["clip_ratio/low_mean"])
    assert figure(ours, "clip_ratio/high") == pytest.approx(metrics["clip_ratio/high_mean"])
    if beta:
        assert figure(ours, "kl") == pytest.approx(metrics["kl"], abs=1e-5)


def test_rloo():
    torch.manual_seed(14)
    logprobs = (-torch.rand(6) * 5).requires_grad_()
    old, advantages = logprobs.detach() + torch.randn(6) * 0.3, torch.randn(6)
    ours = rloo_loss(logprobs, old, advantages, clip_low=0.2, clip_high=0.3)
    loss, metrics = trl_stand_ins.rloo(logprobs, old, advantages, 0.2, 0.3)
    same(mean(ours), loss, logprobs)
    assert figure(ours, "clip_ratio/low") == pytest.approx(metrics["clip_ratio/low_mean"])
    assert figure(ours, "clip_ratio/high") == pytest.approx(metrics["clip_ratio/high_mean"])


def test_deviation_of_a_group_with_an_unscored_sample():
    # TRL works its advantages out inside the code that generates; its nan-aware deviation can be called alone.
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([1.0, 0.2, torch.nan, 0.7, 3.0, 2.0, 2.5, -1.0])
    grouped = rewards.view(2, 4)
    theirs = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1)[:, None] + 1e-4)
    ours = group_advantages(rewards, torch.arange(8) // 4, 2)
    torch.testing.assert_close(ours.advantages, theirs.nan_to_num(0.0).flatten(), rtol=1e-5, atol=1e-5)
