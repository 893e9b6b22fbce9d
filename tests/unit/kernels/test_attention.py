"""The packed attention path equals one big masked softmax, in outputs and gradients."""

import pytest
import torch

from burnish.errors import ShapeError
from burnish.kernels.attention import masked_attention_reference, packed_attention, reason_not_packed


@pytest.mark.parametrize("lengths", [[1], [5], [1, 1, 1], [3, 1, 7], [2, 64, 3]])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("width", [64, 80])
def test_equals_reference(lengths, heads, kv_heads, width):
    torch.manual_seed(1)
    total = sum(lengths)
    inputs = [torch.randn(1, h, total, width, requires_grad=True) for h in (heads, kv_heads, kv_heads)]
    fast = packed_attention(*inputs, lengths, width**-0.5)
    plain = masked_attention_reference(*inputs, lengths, width**-0.5)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    seed = torch.randn_like(fast)
    for ours, theirs in zip(
        torch.autograd.grad(fast, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_lengths_must_fill_the_row():
    query = torch.zeros(1, 2, 5, 8)
    with pytest.raises(ShapeError, match="do not fill"):
        packed_attention(query, query, query, [2, 2], 1.0)
    pair = torch.zeros(2, 2, 5, 8)
    with pytest.raises(ShapeError):
        packed_attention(pair, pair, pair, [5], 1.0)


def test_models_that_ask_for_more_are_named(tiny_model):
    assert reason_not_packed(tiny_model) is None
    tiny_model.config.sliding_window = 16
    assert "sliding_window" in reason_not_packed(tiny_model)
    tiny_model.config.sliding_window = None
    tiny_model._supports_attention_backend = False
    assert "pluggable attention" in reason_not_packed(tiny_model)
