"""Layers that compute with kernels train as the layers of transformers and PEFT do, or are left alone."""

import copy
from contextlib import nullcontext

import pytest
import torch

from burnish.model.adapter import attach_lora
from burnish.model.fused import describe_fused, fused_layers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Per family: (changes to the config, norms, gated MLPs) that compute with kernels in two layers.
FAMILIES = {
    "llama": ({}, 5, 2),
    "mistral": ({}, 5, 2),
    "qwen2": ({}, 5, 2),
    "qwen3": ({}, 9, 2),
    "gemma": ({}, 5, 2),
    "gemma2": ({"query_pre_attn_scalar": 8}, 9, 2),
    "gemma3_text": ({"query_pre_attn_scalar": 8}, 13, 2),
    "smollm3": ({}, 5, 2),
    "olmo2": ({}, 9, 2),
    "phi3": ({}, 5, 0),  # one matrix for gate and up
    "phi": ({}, 0, 0),  # LayerNorm, no gate
    "gpt_neox": ({}, 0, 0),
    "bloom": ({"n_layer": 2, "n_head": 4}, 0, 0),
}


def family(name, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(name, **{**SIZES, **FAMILIES[name][0], **changes})
    ).float()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of ones would hide a forgotten weight
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def with_lora(model, **options):
    model, _ = attach_lora(model, rank=3, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model.train()


def losses_and_gradients(model, fused):
    torch.manual_seed(1)
    ids = torch.randint(3, 97, (2, 9))
    model.zero_grad()
    with fused_layers(model) if fused else nullcontext({}) as kinds:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    return kinds, loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check_same(model):
    kinds, loss, gradients = losses_and_gradients(model, True)
    _, plain_loss, plain = losses_and_gradients(model, False)
    torch.testing.assert_close(loss, plain_loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == plain.keys()
    for name, gradient in plain.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5 + 1e-4 * size, rtol=1e-4, msg=name)
    return kinds


@pytest.mark.parametrize("name", FAMILIES)
def test_families_train_as_before(name):
    _, norms, mlps = FAMILIES[name]
    model = family(name)
    found = check_same(model)
    assert (found.get("norm", 0), found.get("mlp", 0), found.get("lora", 0)) == (norms, mlps, 0)
    adapted = with_lora(copy.deepcopy(model))
    found = check_same(adapted)
    assert (found.get("norm", 0), found.get("mlp", 0)) == (norms, mlps)
    assert found.get("lora", 0) > 0


def called(monkeypatch, *names):
    """How often each kernel is called."""
    import burnish.model.fused as fused

    counts = dict.fromkeys(names, 0)

    def watched(name, kernel):
        def call(*arguments):
            counts[name] += 1
            return kernel(*arguments)

        return call

    for name in names:
        monkeypatch.setattr(fused, name, watched(name, getattr(fused, name)))
    return counts


def test_what_a_kernel_does_not_do_is_left_to_the_layer(monkeypatch):
    counts = called(monkeypatch, "linear", "gated_mlp")
    model = with_lora(family("llama"))
    check_same(model)
    assert counts == {"linear": 8, "gated_mlp": 2 + 1}, "q, k, v, o of two layers; two MLPs, and one is tried"
    counts.update(linear=0, gated_mlp=0)
    for options in ({"dropout": 0.5}, {"use_dora": True}):
        torch.manual_seed(2)
        other = with_lora(family("llama"), **options)
        results = []
        for fused in (True, False):
            torch.manual_seed(7)  # dropout draws the same
            results.append(losses_and_gradients(other, fused)[1])
        torch.testing.assert_close(*results)
    assert counts == {"linear": 0, "gated_mlp": 1}, "dropout and DoRA are PEFT's; the one call is the trial"


def test_the_adapter_switched_off_gives_the_base():
    model = with_lora(family("llama")).eval()
    ids = torch.arange(3, 12)[None]
    with torch.no_grad(), fused_layers(model):
        tuned = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(base, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert (tuned - base).abs().max() > 1e-2


def test_two_adapters_at_once():
    from peft import LoraConfig

    model = with_lora(family("llama"))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    check_same(model)


def test_gradient_checkpointing_and_layers_that_are_watched():
    model = with_lora(family("qwen3"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check_same(model)
    seen = []
    layer = model.get_base_model().model.layers[0].mlp.up_proj.lora_A["default"]
    layer.register_forward_hook(lambda *_: seen.append(1))
    losses_and_gradients(model, True)
    assert seen, "a hook on an inner layer is still called"


def test_afterwards_the_model_is_as_it_was():
    model = with_lora(family("llama"))
    with fused_layers(model) as kinds:
        assert any("forward" in vars(module) for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    assert describe_fused({**kinds, "rotary": 2}) == "2 gated MLPs, 5 norms, 14 LoRA layers, 2 rotary embeddings"


def test_a_layer_that_computes_something_else_is_left_alone():
    model = family("llama")

    class OddRMSNorm(type(model.model.norm)):
        def forward(self, x):
            return super().forward(x) * 1.001

    model.model.norm.__class__ = OddRMSNorm
    model.config.hidden_act = "tanh"
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.Tanh()
    assert {**check_same(model), "rotary": 0} == {"norm": 4, "rotary": 0}
