"""KTO by hand, the pairing of samples with other prompts, and the balance of labels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.errors import ShapeError
from burnish.losses.kto import KLSum, kto_loss, label_balance, mismatched_kl, mismatched_partners

LN3 = math.log(3)


def kl_of(value, count=1.0):
    return KLSum(torch.tensor(value * count), torch.tensor(count))


def test_hand_derived():
    # beta 1, z_0 = ln 3. Desirable with log-ratio 2 ln 3: 1 - sigma(ln 3) = 1/4, weight 2.
    # Undesirable with log-ratio 2 ln 3: 1 - sigma(ln 3 - 2 ln 3) = 3/4, weight 1/2.
    found = kto_loss(
        torch.tensor([2 * LN3, 2 * LN3]),
        torch.zeros(2),
        torch.tensor([True, False]),
        kl_of(LN3),
        beta=1.0,
        desirable_weight=2.0,
        undesirable_weight=0.5,
    )
    assert found.total.item() == pytest.approx(2 / 4 + 0.5 * 3 / 4, rel=1e-6)
    assert found.count.item() == 2
    assert found.figures["kl"][0].item() == pytest.approx(LN3)


def test_policy_equal_to_reference_gives_a_half():
    # Every log-ratio and the KL are 0: 1 - sigma(0) = 1/2.
    logprobs = -torch.rand(5)
    found = kto_loss(
        logprobs, logprobs, torch.tensor([True, False, True, False, True]), mismatched_kl(logprobs, logprobs)
    )
    assert found.total.item() == pytest.approx(2.5)


def test_llama_factory():
    # CustomKTOTrainer.kto_loss of LLaMA-Factory 0.9.5 (TRL 0.24) on these numbers: its losses, and the gradient of its
    # mean; its kl was 0.3 = mean(-1 + 1.5, -2 + 2.1).
    policy = torch.tensor([-2.0, -5.0, -3.0, -4.0], requires_grad=True)
    reference = torch.tensor([-2.5, -4.0, -2.5, -4.5])
    found = kto_loss(
        policy,
        reference,
        torch.tensor([True, True, False, False]),
        mismatched_kl(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.1])),
        beta=0.5,
        undesirable_weight=2.0,
    )
    assert found.total.item() == pytest.approx(0.475021 + 0.65701 + 0.802625 + 1.049958, abs=4e-6)
    slope = torch.autograd.grad(found.total / found.count, policy)[0].tolist()
    assert slope == pytest.approx([-0.031172, -0.028168, 0.060065, 0.062344], abs=2e-6)


def test_figures_are_of_each_label_alone():
    found = kto_loss(
        torch.tensor([-1.0, -2.0, -6.0]),
        torch.tensor([-2.0, -2.0, -4.0]),
        torch.tensor([True, True, False]),
        kl_of(0.0),
    )
    values = {name: [part.item() for part in figure] for name, figure in found.figures.items()}
    assert values["rewards/chosen"] == pytest.approx([0.1, 2])  # 0.1 (1 + 0)
    assert values["rewards/rejected"] == pytest.approx([-0.2, 1])
    assert values["logps/chosen"] == [-3.0, 2]
    assert values["logps/rejected"] == [-6.0, 1]
    assert found.ranked is not None
    assert found.ranked.values.tolist() == pytest.approx([0.1, 0.0, -0.2])
    assert found.ranked.better.tolist() == [True, True, False]


def test_ftx_is_of_the_desirable():
    policy, tokens = torch.tensor([-6.0, -8.0]), torch.tensor([3, 2])
    labels = torch.tensor([True, False])
    with_ftx = kto_loss(policy, policy, labels, kl_of(0.0), pref_ftx=0.5, tokens=tokens)
    assert with_ftx.total.item() == pytest.approx(1.0 + 0.5 * 2.0)  # two halves, and half of 6 / 3 nats a token
    assert [part.item() for part in with_ftx.figures["sft_loss"]] == [2.0, 1]


def test_kl_is_clamped_and_carries_no_gradient():
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    above, below = mismatched_kl(policy, torch.tensor([-2.0, -3.0])), mismatched_kl(policy, torch.tensor([0.0, 0.0]))
    assert above.value.item() == 1.0
    assert below.value.item() == 0.0
    assert not above.value.requires_grad
    assert above.estimated


def test_without_an_estimate_the_kl_is_0_and_says_so():
    none = mismatched_kl(torch.zeros(0), torch.zeros(0))
    assert none.value.item() == 0.0
    assert not none.estimated
    found = kto_loss(torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([False]), none)
    assert found.total.item() == 0.5
    assert found.figures["kl"][1].item() == 0  # not logged as a KL of 0
    assert found.figures["rewards/chosen"][1].item() == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_partners_are_never_of_the_same_prompt(prompts):
    partners = mismatched_partners(prompts)
    assert len(partners) == len(prompts)
    if len(set(prompts)) < 2:
        assert partners == [None] * len(prompts)
        return
    assert all(prompts[partner] != prompt for partner, prompt in zip(partners, prompts, strict=True))
    if max(map(prompts.count, prompts)) * 2 <= len(prompts):
        assert sorted(partners) == list(range(len(prompts)))  # every completion once


def test_partners_of_odd_small_and_lopsided_batches():
    assert mismatched_partners([]) == []
    assert mismatched_partners(["a"]) == [None]
    assert mismatched_partners(["a", "b", "c"]) == [1, 2, 0]
    assert mismatched_partners(["a", "a"]) == [None, None]
    assert mismatched_partners(["a", "a", "a", "b"]) == [3, 3, 3, 2]  # only one completion is of another prompt
    assert mismatched_partners(["a", "a", "a", "a", "b", "c"]) == [4, 5, 4, 5, 2, 3]  # the two others share the work


def test_balance():
    # 30 desirable, 10 undesirable: ratio 3. The undesirable weight must be between 3 / (4/3) = 9/4 and 3, or the
    # desirable one between 1/3 and 4/9.
    found = label_balance(30, 10)
    assert found.ratio == 3.0
    assert not found.balanced
    assert found.undesirable_weights == pytest.approx((2.25, 3.0))
    assert found.desirable_weights == pytest.approx((1 / 3, 4 / 9))
    for weights in ((1.0, 2.25), (1.0, 3.0), (1 / 3, 1.0), (4 / 9, 1.0)):
        assert label_balance(30, 10, *weights).balanced
    assert not label_balance(30, 10, 1.0, 3.1).balanced
    assert label_balance(10, 10).balanced
    assert label_balance(4, 3).balanced
    assert not label_balance(3, 4).balanced


def test_a_missing_label_has_no_balance():
    for found in (label_balance(0, 5), label_balance(5, 0), label_balance(5, 5, 0.0, 1.0)):
        assert found.ratio is None
        assert not found.balanced
        assert found.desirable_weights is None


def test_wrong_shapes_are_a_defect():
    with pytest.raises(ShapeError):
        kto_loss(torch.zeros(2), torch.zeros(2), torch.tensor([True]), kl_of(0.0))
    with pytest.raises(ShapeError):
        kto_loss(torch.zeros(1), torch.zeros(1), torch.tensor([True]), kl_of(0.0), pref_ftx=0.1)
    with pytest.raises(ShapeError):
        mismatched_kl(torch.zeros(2), torch.zeros(1))
