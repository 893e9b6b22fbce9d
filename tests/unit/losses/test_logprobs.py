"""Log-probabilities and entropies, and their sums over the sequences of packed rows."""

import math

import pytest
import torch

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import token_cross_entropy
from burnish.losses.logprobs import per_token, sequence_logprobs, token_entropy, token_logprobs

INF = float("inf")


def test_hand_derived():
    # softmax([ln 1, ln 3]) = [1/4, 3/4].
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    expected = torch.tensor([math.log(1 / 4), math.log(3 / 4)])
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([0, 1])), expected)
    # H = 1/4 ln 4 + 3/4 ln (4/3)
    entropy = math.log(4) / 4 + 3 / 4 * math.log(4 / 3)
    torch.testing.assert_close(token_entropy(logits), torch.tensor([entropy, entropy]))


def test_they_are_the_negative_of_cross_entropy_in_float32():
    torch.manual_seed(0)
    logits, targets = (torch.randn(9, 50) * 20).bfloat16(), torch.randint(50, (9,))
    ours = token_logprobs(logits, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(-ours.sum(), token_cross_entropy(logits, targets).total)


def test_impossible_tokens():
    logits = torch.tensor([[0.0, 0.0, -INF], [-INF, 2.0, -INF]], requires_grad=True)
    found = token_logprobs(logits, torch.tensor([2, 1]))
    assert found.tolist() == [-INF, 0.0]  # a sampled token of probability 0 stays visible
    entropy = token_entropy(logits)
    torch.testing.assert_close(entropy, torch.tensor([math.log(2), 0.0]))
    assert torch.autograd.grad(entropy.sum(), logits)[0].isfinite().all()


def test_sequences_are_summed_apart():
    logprobs = torch.tensor([-1.0, -2.0, -INF, -4.0], requires_grad=True)
    found = sequence_logprobs(logprobs, torch.tensor([0, 0, 2, 3]), 4)
    assert found.total.tolist() == [-3.0, 0.0, -INF, -4.0]  # sequence 1 has no token
    assert found.count.tolist() == [2, 0, 1, 1]
    assert torch.autograd.grad(found.total[0], logprobs)[0].tolist() == [1, 1, 0, 0]
    assert per_token(found.total, found.count).tolist() == [-1.5, 0.0, -INF, -4.0]


def test_order_and_layout_do_not_matter():
    torch.manual_seed(1)
    logprobs, sequences, shuffled = -torch.rand(40), torch.randint(6, (40,)), torch.randperm(40)
    one, two = sequence_logprobs(logprobs, sequences, 6), sequence_logprobs(logprobs[shuffled], sequences[shuffled], 6)
    torch.testing.assert_close(one.total, two.total)
    assert one.count.tolist() == two.count.tolist() == sequences.bincount(minlength=6).tolist()


def test_wrong_shapes_are_a_defect():
    with pytest.raises(ShapeError):
        token_logprobs(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ShapeError):
        sequence_logprobs(torch.zeros(3), torch.zeros(2, dtype=torch.long), 1)
    with pytest.raises(ShapeError):
        per_token(torch.zeros(3), torch.ones(1, dtype=torch.long))
