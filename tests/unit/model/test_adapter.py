"""Targets are found without the head, and a wrong one is named."""

import pytest
import torch

from burnish.errors import ModelError
from burnish.model.adapter import attach_lora, count_parameters, linear_layer_names
from burnish.model.quantize import Quantization, quantize_linear_layers
from burnish.model.residual import start_from_weights
from tests.conftest import build_model


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
    one, _ = attach_lora(build_model(), rank=2, seed=5)
    torch.rand(7)
    two, _ = attach_lora(build_model(), rank=2, seed=5)
    for (_, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ([r".*\.(q|v)_proj"], 4),
        ([r"model\.layers\.1\.self_attn\.[qk]_proj"], 2),
        (["model.layers.0.mlp.up_proj"], 1),
        ([r".*\.1\.mlp\.\w+_proj", "q_proj"], 5),
        (["up_proj", r".*layers\.0.*_proj"], 8),
        ([r".*lm_head$"], 1),
    ],
)
def test_a_target_may_be_a_regular_expression(tiny_model, targets, count):
    if "lm_head" in targets[0]:
        tiny_model = build_model(tie_word_embeddings=False)
    tuned, shown = attach_lora(tiny_model, rank=2, targets=targets)
    assert sum(name.endswith("lora_A.default.weight") for name, _ in tuned.named_parameters()) == count
    assert shown == targets


@pytest.mark.parametrize(
    ("target", "what", "fix"),
    [
        (r"layers\.\d+\.q_proj", "no module's whole name matches", "look like model.layers.0.self_attn.q_proj"),
        (r".*(q_proj", "is no regular expression", "as a list"),
        (r".*\.mlp", r"matches model\.layers\.0\.mlp, which holds layers", r"such as .*\.(q_proj|v_proj)"),
        (r".*norm", "is not supported", "choose from down_proj"),
    ],
)
def test_a_wrong_expression_is_explained(tiny_model, target, what, fix):
    with pytest.raises(ModelError, match=what) as caught:
        attach_lora(tiny_model, targets=[target])
    assert fix in caught.value.fix


def test_a_head_by_any_name_is_left_out():
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**small, intermediate_size=32, bos_token_id=1, eos_token_id=2))
    assert linear_layer_names(model) == ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
    tuned, _ = attach_lora(model, rank=2)
    assert not any("embed_out" in name and "lora" in name for name, _ in tuned.named_parameters())


def test_a_head_that_shares_its_name_is_left_out():
    """`all` means the name up_proj here, and the head, which has it too, stays without an adapter."""
    model = build_model(tie_word_embeddings=False)
    model.up_proj = model.lm_head
    del model.lm_head
    model.get_output_embeddings = lambda: model.up_proj
    tuned, _ = attach_lora(model, rank=2)
    assert not any(name.startswith("base_model.model.up_proj.lora") for name, _ in tuned.named_parameters())
    assert any("mlp.up_proj.lora" in name for name, _ in tuned.named_parameters())


def test_quantized_and_convolution_like_layers_are_found():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2))
    assert linear_layer_names(model) == ["c_attn", "c_fc", "c_proj"]
    bitsandbytes = pytest.importorskip("bitsandbytes")
    block = model.transformer.h[0]
    block.attn.c_attn = bitsandbytes.nn.Linear4bit(16, 48)
    block.mlp.c_fc = bitsandbytes.nn.Linear8bitLt(16, 64)
    assert linear_layer_names(model) == ["c_attn", "c_fc", "c_proj"]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_from_weights_hold_for_convolution_like_layers(start):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(ids).logits
    tuned, _ = attach_lora(model, rank=4, start=start)
    start_from_weights(tuned, start, -1)
    torch.testing.assert_close(tuned.eval()(ids).logits, before, atol=1e-5, rtol=1e-5)


def test_a_rank_beyond_a_weight_is_refused(tiny_model):
    tuned, _ = attach_lora(tiny_model, rank=20, start="pissa")  # k_proj is 16 × 32
    with pytest.raises(ModelError, match=r"rank 20 is more than model\.layers\.0\.self_attn\.k_proj has") as caught:
        start_from_weights(tuned, "pissa")
    assert "16 or less" in caught.value.fix


@pytest.mark.parametrize("bits", [4, 8])
def test_starts_from_weights_refuse_quantized_ones(bits):
    pytest.importorskip("bitsandbytes")
    model = build_model()
    quantize_linear_layers(model, Quantization(bits), compute=torch.float32, device="cpu", skip=())
    tuned, _ = attach_lora(model, rank=4, targets=["q_proj"], start="pissa")
    with pytest.raises(ModelError, match="cannot be decomposed"):
        start_from_weights(tuned, "pissa")
