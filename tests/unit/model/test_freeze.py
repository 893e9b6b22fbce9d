"""Freeze trains what is named and nothing else, and says it."""

import pytest

from burnish.errors import ModelError
from burnish.model.freeze import train_layers
from tests.conftest import build_model


def trained(model):
    return {name.removesuffix(".weight") for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("count", "layers", "says"),
    [
        (2, {2, 3}, "layers 2, 3"),
        (-1, {0}, "layer 0"),
        (1, {3}, "layer 3"),
        (9, {0, 1, 2, 3}, "all layers 0–3"),
        (-9, {0, 1, 2, 3}, "all layers 0–3"),
    ],
)
def test_the_last_or_the_first_layers(count, layers, says):
    model = build_model(num_hidden_layers=4)
    assert train_layers(model, layers=count) == says
    assert {int(name.split(".")[2]) for name in trained(model)} == layers
    assert len(trained(model)) == 9 * len(layers)


def test_parts_of_layers_and_modules_outside():
    model = build_model(tie_word_embeddings=False)
    says = train_layers(model, layers=1, modules=["mlp.up_proj", "q_proj"], extra_modules=["norm", "lm_head"])
    assert says == "mlp.up_proj, q_proj of layer 1, norm and lm_head"
    inside = "model.layers.1."
    assert trained(model) == {f"{inside}mlp.up_proj", f"{inside}self_attn.q_proj", "model.norm", "lm_head"}


def test_a_tied_head_is_the_embedding_and_that_is_said():
    model = build_model()
    says = train_layers(model, layers=0, extra_modules=["lm_head"])
    assert says == "lm_head (the output layer and the embeddings are one and the same)"
    assert trained(model) == {"model.embed_tokens"}


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        (
            {"modules": ["self_atn"]},
            "no module 'self_atn'",
            "did you mean 'self_attn'? Parts of a layer: self_attn, mlp, input_layernorm, post_attention_layernorm, "
            "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj",
        ),
        ({"modules": ["norm"]}, "no module 'norm'", "Parts of a layer: self_attn"),
        (
            {"extra_modules": ["q_proj"]},
            "no module 'q_proj'",
            "Modules outside the layers: embed_tokens, norm, lm_head",
        ),
        ({"layers": 0}, "train nothing", "a number other than 0"),
    ],
)
def test_a_wrong_name_is_named_with_the_right_ones(tiny_model, changes, what, fix):
    with pytest.raises(ModelError, match=what) as caught:
        train_layers(tiny_model, **changes)
    assert fix in caught.value.fix


def test_other_families_have_layers_too():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=32))
    assert train_layers(model, layers=1, modules=["attn"], extra_modules=["ln_f"]) == "attn of layer 2 and ln_f"
    part = "transformer.h.2.attn"
    assert {name.removesuffix(".bias") for name in trained(model)} == {
        f"{part}.c_attn",
        f"{part}.c_proj",
        "transformer.ln_f",
    }
