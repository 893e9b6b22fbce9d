"""Hand-derived values of the reward model's loss."""

import math

import pytest
import torch

from burnish.errors import ShapeError
from burnish.losses.reward import pairwise_reward_loss


def test_hand_derived():
    # sigma(ln 3) = 3/4 and sigma(-ln 3) = 1/4: losses ln (4/3) and ln 4; one of two pairs is in order.
    chosen, rejected = torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)])
    found = pairwise_reward_loss(chosen, rejected)
    assert found.total.item() == pytest.approx(math.log(4 / 3) + math.log(4), rel=1e-6)
    assert found.count.item() == 2
    assert [value.item() for value in found.figures["rewards/accuracies"]] == [1, 2]
    assert found.figures["rewards/margins"][0].item() == pytest.approx(0.0, abs=1e-6)


def test_margin_and_centring():
    # Scores ln 3 and 0 less a margin of ln 3 leave sigma(0): ln 2. Centring adds 0.5 (ln 3)^2. The margin that is
    # logged is that of the scores.
    found = pairwise_reward_loss(
        torch.tensor([math.log(3)]), torch.tensor([0.0]), margins=torch.tensor([math.log(3)]), centring=0.5
    )
    assert found.total.item() == pytest.approx(math.log(2) + 0.5 * math.log(3) ** 2, rel=1e-6)
    assert found.figures["rewards/margins"][0].item() == pytest.approx(math.log(3), rel=1e-6)


def test_only_centring_sees_a_common_shift():
    torch.manual_seed(0)
    chosen, rejected = torch.randn(5), torch.randn(5)
    plain, moved = pairwise_reward_loss(chosen, rejected), pairwise_reward_loss(chosen + 3, rejected + 3)
    torch.testing.assert_close(plain.total, moved.total)
    pulled = (chosen + 3).requires_grad_()
    (slope,) = torch.autograd.grad(
        pairwise_reward_loss(pulled, rejected + 3, centring=0.01).total
        - pairwise_reward_loss(pulled, rejected + 3).total,
        pulled,
    )
    assert (slope * (chosen + rejected + 6) > 0).all()  # the step lowers a sum above 0 and raises one below


def test_bfloat16_and_far_apart_scores_stay_finite():
    chosen = torch.tensor([-300.0], dtype=torch.bfloat16, requires_grad=True)
    found = pairwise_reward_loss(chosen, -chosen.detach())
    assert found.total.dtype == torch.float32
    assert found.total.item() == 600.0  # -log sigma(-600)
    assert torch.autograd.grad(found.total, chosen)[0].item() == -1.0


def test_wrong_shapes_are_a_defect():
    with pytest.raises(ShapeError):
        pairwise_reward_loss(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ShapeError):
        pairwise_reward_loss(torch.zeros(2), torch.zeros(2), margins=torch.zeros(1))
