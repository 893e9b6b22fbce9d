"""Hand-derived values of the pair losses, LLaMA-Factory's values, and what must hold for any pair."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.errors import ShapeError
from burnish.losses.preference import (
    PREFERENCE_LOSSES,
    Pairs,
    dpo_hinge,
    dpo_robust,
    dpo_sigmoid,
    ipo,
    log_one_minus_exp,
    odds_ratio,
    preference_loss,
    simpo,
)

LN3 = math.log(3)


def pairs(chosen, rejected, ref_chosen, ref_rejected, chosen_tokens=None, rejected_tokens=None):
    ones = [1] * len(chosen)
    return Pairs(
        *(torch.tensor(values, dtype=torch.float32, requires_grad=True) for values in (chosen, rejected)),
        torch.tensor(chosen_tokens or ones),
        torch.tensor(rejected_tokens or ones),
        torch.tensor(ref_chosen),
        torch.tensor(ref_rejected),
    )


def mean(found):
    return (found.total / found.count).item()


def figure(found, name):
    total, count = found.figures[name]
    return (total / count).item()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"length_normalised": True}])
def test_policy_equal_to_reference_gives_ln_2(options):
    # Every log-ratio is 0, and -log sigma(0) = ln 2.
    same = pairs([-7.0, -3.0], [-1.0, -9.0], [-7.0, -3.0], [-1.0, -9.0], [3, 2], [5, 4])
    found = preference_loss(same, beta=0.1, **options)
    assert mean(found) == pytest.approx(math.log(2), rel=1e-6)
    assert figure(found, "rewards/margins") == figure(found, "rewards/accuracies") == 0


def test_hand_derived():
    # With beta m = ln 3: sigma = 3/4, so -log sigma(beta m) = ln (4/3) and -log sigma(-beta m) = ln 4.
    m = torch.tensor([2 * LN3])
    near = partial(pytest.approx, rel=1e-6)
    assert dpo_sigmoid(m, beta=0.5).item() == near(math.log(4 / 3))
    # e = 1/4: 3/4 ln (4/3) + 1/4 ln 4
    assert dpo_sigmoid(m, beta=0.5, label_smoothing=0.25).item() == near(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    # (3/4 ln (4/3) - 1/4 ln 4) / (1 - 1/2)
    assert dpo_robust(m, beta=0.5, label_smoothing=0.25).item() == near(1.5 * math.log(4 / 3) - 0.5 * math.log(4))
    # 1 - 0.5 m at m = 1, and 0 beyond m = 2
    assert dpo_hinge(torch.tensor([1.0, 3.0]), beta=0.5).tolist() == [0.5, 0.0]
    # (2 - 1 / (2 0.5))^2 = 1, and 0 at the target 1 / (2 beta)
    assert ipo(torch.tensor([2.0, 1.0]), beta=0.5).tolist() == [1.0, 0.0]
    # beta (c - r) - gamma = 2 ln 3 - ln 3 = ln 3
    assert simpo(torch.tensor([-1.0]), torch.tensor([-1.0 - LN3]), beta=2.0, gamma=LN3).item() == near(math.log(4 / 3))
    # p = 3/4 has odds 3, p = 1/2 has odds 1: log odds differ by ln 3
    assert odds_ratio(torch.tensor([math.log(0.75)]), torch.tensor([math.log(0.5)])).item() == near(math.log(4 / 3))


def test_orpo_by_hand():
    # Two tokens of probability 3/4 against one of 1/2: ln (4/3) of SFT plus beta ln (4/3).
    batch = Pairs(
        torch.tensor([2 * math.log(0.75)]), torch.tensor([math.log(0.5)]), torch.tensor([2]), torch.tensor([1])
    )
    found = preference_loss(batch, "orpo", beta=0.5)
    assert mean(found) == pytest.approx(1.5 * math.log(4 / 3), rel=1e-6)
    assert figure(found, "sft_loss") == pytest.approx(math.log(4 / 3), rel=1e-6)
    assert figure(found, "odds_ratio_loss") == pytest.approx(math.log(4 / 3), rel=1e-6)


def test_kto_pair_by_hand():
    # Log-ratios (chosen) ln 3, ln 3 and (rejected) -1, -3: z_c = ln 3, z_r = max(0, -2) = 0, beta = 1.
    # Chosen: 1 - sigma(ln 3 - 0) = 1/4 twice. Rejected: 1 - sigma(ln 3 + 1) and 1 - sigma(ln 3 + 3).
    # Half of the sum of both, over two pairs.
    batch = pairs([LN3, LN3], [-1.0, -3.0], [0.0, 0.0], [0.0, 0.0])
    found = preference_loss(batch, "kto_pair", beta=1.0)
    rejected = sum(1 / (1 + 3 * math.exp(ratio)) for ratio in (1, 3))
    assert found.total.item() == pytest.approx((0.5 + rejected) / 2, rel=1e-6)
    assert found.count.item() == 2
    # No gradient through z: a chosen log-ratio is only pulled by its own term, -beta sigma' / 2.
    (slope,) = torch.autograd.grad(found.total, batch.chosen)
    assert slope.tolist() == pytest.approx([-0.75 * 0.25 / 2] * 2, rel=1e-6)


# Losses and gradients (of the mean, by chosen and rejected log-probability) of LLaMA-Factory 0.9.5 with TRL 0.24, from
# CustomDPOTrainer.dpo_loss, .simpo_loss and .odds_ratio_loss called on these very numbers with beta 0.5, gamma 0.7.
FACTORY = [
    ({}, [0.474077, 1.136871], [-0.094385, -0.169795], [0.094385, 0.169795]),
    ({"label_smoothing": 0.1}, [0.524077, 1.061871], [-0.069385, -0.144795], [0.069385, 0.144795]),
    ({"pref_loss": "hinge"}, [0.5, 1.75], [-0.25, -0.25], [0.25, 0.25]),
    ({"pref_loss": "ipo"}, [0.390625, 1.593906], [-0.15625, -0.2525], [0.3125, 0.157813]),
    ({"pref_loss": "simpo", "simpo_gamma": 0.7}, [0.798139, 1.276956], [-0.034365, -0.036056], [0.068729, 0.022535]),
    ({"pref_loss": "orpo"}, [0.58543, 1.647188], [-0.149948, -0.15742], [0.025271, 0.057655]),
    ({"pref_ftx": 0.3}, [0.624077, 1.436871], [-0.131885, -0.199795], [0.094385, 0.169795]),
]


@pytest.mark.parametrize(("options", "losses", "by_chosen", "by_rejected"), FACTORY)
def test_llama_factory(options, losses, by_chosen, by_rejected):
    batch = pairs([-2.0, -5.0], [-3.0, -4.0], [-2.5, -4.0], [-2.5, -4.5], [4, 5], [2, 8])
    found = preference_loss(batch, beta=0.5, **options)
    assert mean(found) == pytest.approx(sum(losses) / 2, abs=2e-6)
    slopes = torch.autograd.grad(found.total / found.count, (batch.chosen, batch.rejected))
    assert slopes[0].tolist() == pytest.approx(by_chosen, abs=2e-6)
    assert slopes[1].tolist() == pytest.approx(by_rejected, abs=2e-6)


@settings(deadline=None)
@given(
    pref_loss=st.sampled_from(PREFERENCE_LOSSES),
    values=st.lists(st.floats(-40, -0.01), min_size=4, max_size=4),
    beta=st.floats(0.05, 2.0),
)
def test_a_step_down_raises_chosen_and_lowers_rejected(pref_loss, values, beta):
    chosen, rejected, ref_chosen, ref_rejected = ([value] for value in values)
    batch = pairs(chosen, rejected, ref_chosen, ref_rejected)
    found = preference_loss(batch, pref_loss, beta=beta)
    slopes = torch.autograd.grad(found.total, (batch.chosen, batch.rejected))
    assert all(slope.isfinite().all() for slope in slopes)
    if pref_loss != "ipo":  # ipo pulls a margin that is too large back to its target
        assert slopes[0].item() <= 0 <= slopes[1].item()


def test_pairs_of_a_batch_do_not_touch_each_other():
    values = ([-2.0, -5.0, -1.0], [-3.0, -4.0, -6.0], [-2.5, -4.0, -2.0], [-2.5, -4.5, -5.0])
    whole = preference_loss(pairs(*values), beta=0.3).total.item()
    apart = [preference_loss(pairs(*([part[row]] for part in values)), beta=0.3).total.item() for row in range(3)]
    assert whole == pytest.approx(sum(apart), rel=1e-6)


def test_certain_and_empty_completions_stay_finite():
    # A probability of 1 has infinite odds; an empty completion has log-probability 0 over 0 tokens.
    batch = pairs([0.0, 0.0], [-3.0, 0.0], [0.0, 0.0], [-3.0, 0.0], [4, 0], [2, 0])
    for pref_loss in PREFERENCE_LOSSES:
        found = preference_loss(batch, pref_loss, pref_ftx=1.0)
        slopes = torch.autograd.grad(found.total, (batch.chosen, batch.rejected))
        assert found.total.isfinite(), pref_loss
        assert all(slope.isfinite().all() for slope in slopes), pref_loss


def test_an_impossible_completion_is_not_hidden():
    batch = pairs([-math.inf, -1.0], [-1.0, -2.0], [-1.0, -1.0], [-1.0, -1.0])
    assert not preference_loss(batch).total.isfinite()


def test_log_one_minus_exp_keeps_its_digits():
    values = torch.tensor([-1e-6, -0.1, -0.6931, -0.6932, -5.0, -30.0])
    exact = [math.log1p(-math.exp(value)) for value in values.double().tolist()]
    torch.testing.assert_close(log_one_minus_exp(values), torch.tensor(exact), rtol=1e-6, atol=0)


def test_bfloat16_is_computed_in_float32():
    batch = Pairs(*(torch.tensor([value], dtype=torch.bfloat16) for value in (-1.0, -2.0, 1, 1, -1.5, -1.0)))
    found = preference_loss(batch, beta=0.1)
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(-math.log(1 / (1 + math.exp(-0.15))), rel=1e-6)


def test_no_pairs_cost_nothing():
    none = torch.zeros(0, requires_grad=True)
    found = preference_loss(Pairs(none, none, none, none, none.detach(), none.detach()))
    assert (found.total.item(), found.count.item()) == (0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"pref_loss": "dpo"},
        {"label_smoothing": 0.5},
        {"pref_loss": "hinge", "label_smoothing": 0.1},
        {"pref_loss": "kto_pair", "length_normalised": True},
    ],
)
def test_options_that_cannot_be_honoured(options):
    with pytest.raises(ValueError):
        preference_loss(pairs([-1.0], [-1.0], [-1.0], [-1.0]), **options)


def test_wrong_shapes_and_a_missing_reference_are_defects():
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ShapeError):
        Pairs(one, two, one, one)
    with pytest.raises(ShapeError):
        preference_loss(Pairs(one, one, one, one))
