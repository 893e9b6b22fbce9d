"""Hand-derived values of the plain loss."""

import math

import pytest
import torch

from burnish.errors import ShapeError
from burnish.losses import token_cross_entropy


def test_hand_derived():
    # softmax([ln 1, ln 3]) = [1/4, 3/4], so -log p is ln 4 for token 0 and ln (4/3) for token 1.
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    loss = token_cross_entropy(logits, torch.tensor([0, 1]))
    assert loss.total.item() == pytest.approx(math.log(4) + math.log(4 / 3), rel=1e-6)
    assert loss.count.item() == 2


def test_weights_scale_nats_and_count():
    logits = torch.zeros(2, 4)
    loss = token_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([0.5, 0.0]))
    assert loss.total.item() == pytest.approx(0.5 * math.log(4), rel=1e-6)
    assert loss.count.item() == 0.5


def test_wrong_shapes_are_a_defect():
    with pytest.raises(ShapeError):
        token_cross_entropy(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))


def test_smoothing_equals_torch():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 11), torch.randint(0, 11, (6,))
    theirs = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.3, reduction="sum")
    torch.testing.assert_close(token_cross_entropy(logits, targets, smoothing=0.3).total, theirs)


def test_hits_are_the_likeliest_tokens_and_nats_stay_plain():
    # softmax([ln 1, ln 3]) = [1/4, 3/4]: token 1 is the likeliest; its nats are ln (4/3), smoothed or not.
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    loss = token_cross_entropy(logits, torch.tensor([0, 1]), smoothing=0.5, want_hits=True)
    assert loss.hits.tolist() == [False, True]
    assert loss.nats.tolist() == pytest.approx([math.log(4), math.log(4 / 3)])
