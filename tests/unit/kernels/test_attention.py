"""The packed attention path equals one big masked softmax, in outputs and gradients."""

import pytest
import torch

from burnish.errors import ShapeError
from burnish.kernels.attention import masked_attention_reference, packed_attention, reason_not_packed


@pytest.fixture(params=["kernel", "plain"])
def way(request, monkeypatch):
    """With the kernel in C, where there is a compiler, and by PyTorch's attention."""
    if request.param == "plain":
        monkeypatch.setattr("burnish.kernels.document_attention.whole_vectors", lambda: None)


@pytest.mark.usefixtures("way")
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


def check_same(inputs, lengths, *rest, **more):
    fast = packed_attention(*inputs, lengths, 0.2, **more)
    plain = masked_attention_reference(*inputs, lengths, 0.2, **more)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    seed, learn = torch.randn_like(fast), [*inputs, *rest]
    for ours, theirs in zip(
        torch.autograd.grad(fast, learn, seed), torch.autograd.grad(plain, learn, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("lengths", "shared"), [([1], []), ([5], []), ([1, 9, 4], []), ([3, 20, 7, 1], []), ([3, 20, 7, 1], [2, 5])]
)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("special", ["window", "softcap", "sinks", "window softcap", "window softcap sinks", "long"])
def test_windows_soft_caps_and_sinks_equal_the_reference(lengths, kv_heads, special, shared, monkeypatch):
    monkeypatch.setattr("burnish.kernels.attention._QUERIES", 3)  # several blocks, the last one not full
    torch.manual_seed(2)
    inputs = [torch.randn(1, heads, sum(lengths), 64, requires_grad=True) for heads in (4, kv_heads, kv_heads)]
    sinks = torch.randn(4, requires_grad=True)
    more = {"window": 4 if "window" in special else 100 if special == "long" else None}
    more |= {"softcap": 1.5 if "softcap" in special else None, "sinks": sinks if "sinks" in special else None}
    more |= {"shared_prompts": shared or None}
    check_same(inputs, lengths, *([sinks] if "sinks" in special else []), **more)


def test_a_window_is_counted_with_the_token_itself():
    """Window 2 and equal scores: each token takes the mean of its own value and the one before, by hand."""
    value = torch.tensor([1.0, 3.0, 5.0, 11.0]).view(1, 1, 4, 1)
    zeros = torch.zeros(1, 1, 4, 1)
    mixed = packed_attention(zeros, zeros, value, [3, 1], 1.0, window=2)
    assert mixed.flatten().tolist() == pytest.approx([1.0, 2.0, 4.0, 11.0])


def test_a_soft_cap_and_a_sink_by_hand():
    """Scores 0 and 2 under a cap of 1 are tanh 0 = 0 and tanh 2 = 0.9640; a sink of 0 takes a share of its own."""
    query, key = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1), torch.tensor([0.0, 2.0]).view(1, 1, 2, 1)
    value = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    mixed = packed_attention(query, key, value, [2], 1.0, softcap=1.0, sinks=torch.zeros(1))
    assert mixed.flatten().tolist() == pytest.approx([0.0, 2.6222 / 4.6222], abs=1e-4)  # e^0.9640 = 2.6222


def test_lengths_must_fill_the_row():
    query = torch.zeros(1, 2, 5, 8)
    with pytest.raises(ShapeError, match="do not fill"):
        packed_attention(query, query, query, [2, 2], 1.0)
    pair = torch.zeros(2, 2, 5, 8)
    with pytest.raises(ShapeError):
        packed_attention(pair, pair, pair, [5], 1.0)


def test_models_that_ask_for_more_are_named(tiny_model):
    config = tiny_model.config
    assert reason_not_packed(tiny_model) is None
    config.sliding_window = 16  # no Llama's layer hands a window on
    assert reason_not_packed(tiny_model) == "llama uses sliding_window"
    config.model_type = "mistral"
    assert reason_not_packed(tiny_model) is None
    config.layer_types = ["full_attention", "linear_attention"]
    assert reason_not_packed(tiny_model) == "mistral uses linear_attention"
    config.layer_types, config.use_bidirectional_attention = None, True
    assert reason_not_packed(tiny_model) == "mistral looks both ways"
    config.use_bidirectional_attention, config._attn_implementation = False, "eager"
    assert "flash_attn: disabled" in reason_not_packed(tiny_model)
    tiny_model._supports_attention_backend = False
    assert "pluggable attention" in reason_not_packed(tiny_model)
