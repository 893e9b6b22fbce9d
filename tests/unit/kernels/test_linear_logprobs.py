"""The chunked head and log-probabilities equal the plain ones, in value and gradients."""

import math

import pytest
import torch

from burnish.kernels.linear_logprobs import linear_logprobs
from burnish.losses.logprobs import token_logprobs

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("chunk", [1, 8, 100])
@pytest.mark.parametrize("train_head", [False, True])
def test_equals_reference(rows, chunk, train_head):
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=train_head)
    targets, factors = torch.randint(0, 50, (rows,)), torch.randn(rows)
    asked = [hidden, weight] if train_head else [hidden]
    fast = linear_logprobs(hidden, weight, targets, chunk)
    plain = token_logprobs(hidden @ weight.T, targets)
    torch.testing.assert_close(fast, plain)
    ours = torch.autograd.grad((fast * factors).sum(), asked)  # each row meets its own factor
    theirs = torch.autograd.grad((plain * factors).sum(), asked)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_only_the_head_may_be_trained():
    hidden, weight = torch.randn(5, 4), torch.randn(9, 4, requires_grad=True)
    targets = torch.tensor([0, 8, 3, 3, 1])
    ours = torch.autograd.grad(linear_logprobs(hidden, weight, targets).sum(), weight)[0]
    theirs = torch.autograd.grad(token_logprobs(hidden @ weight.T, targets).sum(), weight)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_without_gradients_nothing_is_kept():
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    with torch.no_grad():
        logprobs = linear_logprobs(hidden, weight, torch.zeros(5, dtype=torch.long))
    assert logprobs.grad_fn is None
    torch.testing.assert_close(logprobs, token_logprobs(hidden @ weight.T, torch.zeros(5, dtype=torch.long)).detach())


def test_no_targets_give_no_logprobs():
    hidden = torch.zeros(0, 4, requires_grad=True)
    logprobs = linear_logprobs(hidden, torch.zeros(9, 4), torch.zeros(0, dtype=torch.long))
    assert logprobs.shape == (0,)
    logprobs.sum().backward()


def test_a_model_that_knows_nothing_gives_minus_ln_v():
    logprobs = linear_logprobs(torch.zeros(3, 4), torch.ones(10, 4), torch.tensor([0, 5, 9]))
    assert logprobs.tolist() == pytest.approx([-math.log(10)] * 3)


def test_bf16_is_as_near_to_fp32_as_the_plain_path():
    torch.manual_seed(3)
    hidden, weight, targets = torch.randn(64, 32), torch.randn(200, 32), torch.randint(0, 200, (64,))
    exact = token_logprobs(hidden @ weight.T, targets)
    low = hidden.bfloat16(), weight.bfloat16()
    plain = token_logprobs(low[0] @ low[1].T, targets)
    fast = linear_logprobs(*low, targets)
    assert (fast - exact).abs().max() <= (plain - exact).abs().max() + 1e-3
