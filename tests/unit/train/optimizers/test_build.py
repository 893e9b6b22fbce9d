"""Which optimizer updates which weights, at which rate, with which weight decay."""

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from burnish import log
from burnish.errors import BurnishError, MissingExtraError
from burnish.train.optimizers.adam_mini import COLUMNS, WHOLE
from burnish.train.optimizers.weights import trained_weights
from tests.conftest import build_model
from tests.unit.train.optimizers.toy import give_gradients, optimizer_of, run, toy


def by_name(optimizer, key):
    return {name: group.get(key) for group in optimizer.param_groups for name in group["param_names"]}


def adapted(**changes):
    targets = changes.pop("target_modules", ["q_proj", "down_proj"])
    config = LoraConfig(**{"r": 4, "target_modules": targets, **changes})
    return get_peft_model(build_model(tie_word_embeddings=False), config)


def test_weight_decay_spares_biases_and_norms():
    decays = by_name(optimizer_of(toy(), "adamw_torch", weight_decay=0.5), "weight_decay")
    assert decays == {
        "embed.weight": 0.5,
        "q_proj.weight": 0.5,
        "q_proj.bias": 0.0,
        "norm.weight": 0.0,
        "lm_head.weight": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "matrix", "table", "vector"),
    [
        ("adamw_torch", "adamw", "adamw", "adamw"),
        ("muon", "muon", "adamw", "adamw"),
        ("adamw_bnb_8bit", "adamw_8bit", "adamw", "adamw_8bit"),
        ("paged_adamw_8bit", "adamw_8bit", "adamw", "adamw_8bit"),
        ("paged_lion_8bit", "lion_8bit", "lion", "lion_8bit"),
        ("paged_adamw", "adamw_32bit", "adamw_32bit", "adamw_32bit"),
        ("lion_32bit", "lion", "lion", "lion"),
    ],
)
def test_which_optimizer_updates_what(name, matrix, table, vector):
    kinds = by_name(optimizer_of(toy(), name), "kind")
    assert kinds["q_proj.weight"] == matrix
    assert kinds["embed.weight"] == kinds["lm_head.weight"] == table
    assert kinds["norm.weight"] == kinds["q_proj.bias"] == vector


def test_muon_takes_lora_factors_but_not_those_of_embeddings():
    kinds = by_name(optimizer_of(adapted(target_modules=["q_proj", "embed_tokens"]), "muon"), "kind")
    assert {kind for name, kind in kinds.items() if "q_proj" in name} == {"muon"}
    assert {kind for name, kind in kinds.items() if "embed_tokens" in name} == {"adamw"}


def test_tied_and_untied_tables_are_found_in_a_real_layout():
    for tied in (True, False):
        model = build_model(tie_word_embeddings=tied)
        tables = {weight.name for weight in trained_weights(model) if weight.table}
        assert tables == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})


def test_blocks_of_adam_mini():
    blocks = {weight.name: weight.block for weight in trained_weights(build_model())}
    layer = "model.layers.0."
    assert blocks[layer + "self_attn.q_proj.weight"] == blocks[layer + "self_attn.k_proj.weight"] == 8  # 32 / 4 heads
    assert blocks[layer + "self_attn.v_proj.weight"] == blocks[layer + "mlp.down_proj.weight"] == 1
    assert blocks["model.embed_tokens.weight"] == 1
    assert blocks[layer + "input_layernorm.weight"] == WHOLE
    lora = {weight.name: weight.block for weight in trained_weights(adapted(r=8))}
    [up] = [block for name, block in lora.items() if "layers.0.self_attn.q_proj.lora_B" in name]
    [down] = [block for name, block in lora.items() if "layers.0.self_attn.q_proj.lora_A" in name]
    assert (up, down) == (8, 1)


def test_gpt2_layers_are_blocked_by_columns():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=16))
    blocks = {weight.name: weight.block for weight in trained_weights(model)}
    assert blocks["transformer.h.0.mlp.c_fc.weight"] == COLUMNS
    assert blocks["transformer.wte.weight"] == 1
    optimizer = optimizer_of(model, "adam_mini")
    run(model, optimizer, range(2))
    assert optimizer.tensors()["adam_mini/exp_avg_sq/transformer.h.0.mlp.c_fc.weight"].shape == (32,)


# -- LoRA+ ----------------------------------------------------------------------------------------------------


def test_loraplus_rates_are_those_of_peft():
    model = adapted(target_modules=["q_proj", "down_proj", "embed_tokens"])
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, loraplus_lr_embedding=2e-5, loraplus_weight_decay=0.1
    )
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in theirs.param_groups for p in group["params"]}
    ours = optimizer_of(model, "adamw_torch", loraplus_lr_ratio=16.0, loraplus_lr_embedding=2e-5)
    found = {
        id(parameter): (group["rate_factor"] * 1e-3, group["weight_decay"])
        for group in ours.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == rates.keys()
    for key, (rate, decay) in rates.items():
        assert found[key] == (pytest.approx(rate), decay)
    assert {round(rate, 9) for rate, _ in found.values()} == {1e-3, 1.6e-2, 2e-5}


def test_loraplus_moves_b_by_the_ratio():
    model = adapted(target_modules=["q_proj"])
    optimizer = optimizer_of(model, "adamw_torch", loraplus_lr_ratio=4.0, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    give_gradients(model, 0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        # AdamW's first step is the rate for every weight whose gradient is not tiny.
        moved = (parameter.detach() - before[name]).abs().median().item()
        expected = 0.0 if not parameter.requires_grad else 4e-3 if "lora_B" in name else 1e-3
        assert moved == pytest.approx(expected, rel=1e-4)


def test_without_a_ratio_all_rates_are_one():
    assert set(by_name(optimizer_of(adapted(), "adamw_torch"), "rate_factor").values()) == {1.0}


def test_a_rate_of_nothing_divides_nothing():
    model = adapted(target_modules=["embed_tokens"])
    optimizer_of(model, "adamw_torch", learning_rate=0.0, loraplus_lr_ratio=4.0)


# -- what is refused ------------------------------------------------------------------------------------------


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError) as caught:
        optimizer_of(toy(), "lion_8bit")
    assert "optim: lion_8bit" in caught.value.what
    assert "burnish[quant]" in (caught.value.fix or "")
    optimizer_of(toy(), "lion_32bit")  # ours; needs no package


def test_a_torch_without_muon_says_so(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(BurnishError, match="has no Muon"):
        optimizer_of(toy(), "muon")


def test_values_that_an_optimizer_refuses():
    with pytest.raises(BurnishError, match="sgd refuses its values: Nesterov momentum requires") as caught:
        optimizer_of(toy(), "sgd", extras={"nesterov": True}).parts()
    assert caught.value.at == "optim_args"


def test_extra_values_reach_the_optimizer_they_are_for():
    parts = optimizer_of(toy(), "muon", extras={"ns_steps": 3, "momentum": 0.8}).parts()
    assert parts["muon"].param_groups[0]["ns_steps"] == 3
    assert parts["muon"].param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    assert "momentum" not in parts["adamw"].param_groups[0]


def test_paging_on_a_cpu_is_said_and_left_out(monkeypatch):
    said = []
    monkeypatch.setattr(log, "note", said.append)
    [part] = optimizer_of(nn.Linear(2, 2), "paged_adamw_8bit").parts().values()
    assert said == ["paged_adamw_8bit pages its state only on a GPU; here it stays in memory"]
    assert part.is_paged is False
