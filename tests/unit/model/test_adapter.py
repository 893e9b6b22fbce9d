"""Targets are found without the head, and a wrong one is named."""

import pytest

from burnish.errors import ModelError
from burnish.model.adapter import attach_lora, count_parameters, linear_layer_names


def test_discovery_leaves_the_head_out(tiny_model):
    assert "lm_head" not in linear_layer_names(tiny_model)


def test_layers_of_quantized_checkpoints_are_found(tiny_model):
    """GPTQ and AWQ layers are no nn.Linear; gptqmodel's derive from a class of its own."""
    from torch import nn

    base = type("BaseQuantLinear", (nn.Module,), {})
    for layer in tiny_model.model.layers:
        layer.mlp.up_proj = type("TorchQuantLinear", (base,), {})()
        layer.mlp.act_fn = nn.SiLU()
    assert linear_layer_names(tiny_model) == [
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    ]


def test_a_wrong_target_is_named(tiny_model):
    with pytest.raises(ModelError, match="no layer 'q_porj'") as caught:
        attach_lora(tiny_model, targets=["q_porj"])
    assert "did you mean 'q_proj'?" in caught.value.fix


def test_only_adapters_are_trained(tiny_model):
    tuned, _ = attach_lora(tiny_model, rank=2, targets=["q_proj"])
    # Two layers, A [2, 32] and B [32, 2] each: 2 × 128 numbers.
    assert count_parameters(tuned).trainable == 256
    assert all("lora_" in name for name, p in tuned.named_parameters() if p.requires_grad)


def test_the_start_depends_on_the_seed_alone():
    import torch

    from tests.conftest import build_model

    one, _ = attach_lora(build_model(), rank=2, seed=5)
    torch.rand(7)
    two, _ = attach_lora(build_model(), rank=2, seed=5)
    for (_, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b)
