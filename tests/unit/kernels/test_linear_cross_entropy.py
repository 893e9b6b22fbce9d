"""The chunked head and loss equal the plain ones, in value and gradients."""

import math

import pytest
import torch

from burnish.kernels.linear_cross_entropy import linear_cross_entropy
from burnish.losses import token_cross_entropy

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("chunk", [1, 8, 100])
@pytest.mark.parametrize("train_head", [False, True])
def test_equals_reference(rows, chunk, train_head):
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=train_head)
    targets, weights = torch.randint(0, 50, (rows,)), torch.rand(rows)
    asked = [hidden, weight] if train_head else [hidden]
    fast = linear_cross_entropy(hidden, weight, targets, weights, chunk)
    plain = token_cross_entropy(hidden @ weight.T, targets, weights)
    torch.testing.assert_close(fast.total, plain.total)
    torch.testing.assert_close(fast.count, plain.count)
    ours = torch.autograd.grad(fast.total * 0.37, asked)
    theirs = torch.autograd.grad(plain.total * 0.37, asked)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_targets_cost_nothing():
    hidden = torch.zeros(0, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.zeros(9, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    assert loss.total.item() == 0.0
    assert loss.count.item() == 0.0


def test_bf16_is_as_near_to_fp32_as_the_plain_path():
    torch.manual_seed(3)
    hidden, weight = torch.randn(64, 32), torch.randn(200, 32)
    targets, ones = torch.randint(0, 200, (64,)), torch.ones(64)
    exact = token_cross_entropy(hidden @ weight.T, targets).total
    low = hidden.bfloat16(), weight.bfloat16()
    plain = token_cross_entropy(low[0] @ low[1].T, targets).total
    fast = linear_cross_entropy(*low, targets, ones).total
    assert abs(fast - exact) <= abs(plain - exact) + 1e-2


def test_a_model_that_knows_nothing_loses_ln_v():
    # All logits equal: -log(1/V) = ln V for each token; 3 tokens of V = 10 give 3 ln 10 = 6.9078.
    loss = linear_cross_entropy(torch.zeros(3, 4), torch.ones(10, 4), torch.tensor([0, 5, 9]), torch.ones(3))
    assert loss.total.item() == pytest.approx(3 * math.log(10), rel=1e-6)


@pytest.mark.parametrize("train_head", [False, True])
def test_smoothing_and_hits_equal_reference(train_head):
    torch.manual_seed(1)
    hidden = torch.randn(13, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=train_head)
    targets, weights = torch.randint(0, 50, (13,)), torch.rand(13)
    targets[:5] = (hidden @ weight.T).argmax(-1)[:5]
    asked = [hidden, weight] if train_head else [hidden]
    fast = linear_cross_entropy(hidden, weight, targets, weights, 4, smoothing=0.1, want_hits=True)
    plain = token_cross_entropy(hidden @ weight.T, targets, weights, smoothing=0.1, want_hits=True)
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert fast.hits[:5].all()
    assert not fast.nats.requires_grad
    ours, theirs = torch.autograd.grad(fast.total, asked), torch.autograd.grad(plain.total, asked)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
