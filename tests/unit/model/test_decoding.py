"""A model's step in native code gives the model's own logits, or is refused with a reason."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from burnish.kernels.cached_attention import Decode, Prefill, SlotStore, slot_attention, slot_cache
from burnish.kernels.native import CannotCompile, native
from burnish.model import decoding
from burnish.model.decoding import Decoder, NotUnderstood

try:
    native("decode")
except CannotCompile as error:
    pytest.skip(f"no native code here: {error}", allow_module_level=True)

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {"attention_bias": True, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "mistral": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "qwen3": {"tie_word_embeddings": True},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "phi3": {"sliding_window": 6, "partial_rotary_factor": 0.5},
    "gemma": {},
    "gemma2": {
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
    },
    "gemma3_text": {
        "sliding_window": 6,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "granite": {
        "logits_scaling": 2.0,
        "residual_multiplier": 0.7,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
    },
    "olmo2": {},
}


def family(name, **changes):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES.get(name, {}), **changes})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of ones and biases of zeros would hide a forgotten one
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


class Beside:
    """The model's own steps over slots, and the decoder's over a copy of the same keys and values."""

    def __init__(self, model, rows=3, decoder=None):
        self.model, self.store = model, SlotStore(rows)
        self.cache = slot_cache(self.store)
        self.places = [3 + 8 * row for row in range(rows)]
        self.store.make_room(max(self.places))
        prompts = [[5 + (7 * place + row) % 80 for place in range(length)] for row, length in enumerate(self.places)]
        step = Prefill(tuple(range(rows)), (0,) * rows, tuple(self.places))
        positions = [place for prompt in prompts for place in range(len(prompt))]
        self._own(step, torch.tensor([[token for prompt in prompts for token in prompt]]), torch.tensor([positions]))
        self.decoder = decoder or Decoder(model, rows)
        self.kept = [
            {layer: kept.clone() for layer, kept in each.items()} for each in (self.store.keys, self.store.values)
        ]

    @torch.inference_mode()
    def _own(self, step, ids, positions):
        self.cache.step = step
        with slot_attention(self.model):
            return self.model(
                input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True, slot_step=step
            ).logits

    def step(self, tokens):
        """(the decoder's logits, the model's own)."""
        places = torch.tensor(self.places)
        own = self._own(Decode(places, max(self.places) + 1), torch.tensor([tokens]).T, places[:, None])[:, -1]
        given = self.decoder.step(tokens, places, *self.kept).clone()
        self.places = [place + 1 for place in self.places]
        return given, own.float()


def apart(given, own):
    return ((given - own).abs().max() / own.abs().max()).item()


def lora(model, **options):
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("name", sorted(decoding.FAMILIES))
def test_every_family_it_knows(name):
    beside = Beside(family(name))
    for tokens in ([7, 8, 9], [11, 3, 60], [1, 2, 96]):
        assert apart(*beside.step(tokens)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2"])
def test_adapters_on_and_off_and_two_at_once(name):
    model = lora(family(name))
    with_one, plain = Beside(model), None
    assert apart(*with_one.step([7, 8, 9])) < 1e-5
    with model.disable_adapter():
        assert not with_one.decoder.fresh
        plain = Beside(model)
        given, own = plain.step([7, 8, 9])
        assert apart(given, own) < 1e-5
    assert with_one.decoder.fresh
    model.add_adapter("other", LoraConfig(r=2, target_modules=["o_proj", "down_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    assert not with_one.decoder.fresh
    assert apart(*Beside(model.eval()).step([7, 8, 9])) < 1e-5
    model.base_model.set_adapter("default")
    model.merge_adapter()
    merged, _ = Beside(model).step([7, 8, 9])
    assert apart(merged, given) > 1e-3  # the adapter counts
    model.unmerge_adapter()


def test_bfloat16_is_nearer_to_float32_than_the_models_own_steps():
    model = family("llama")
    exact = Beside(model).step([7, 8, 9])[1]
    given, own = Beside(model.bfloat16()).step([7, 8, 9])
    assert apart(given, own) < 0.05
    assert apart(given, exact) < apart(own, exact)


def test_training_in_place_is_seen():
    for model in (family("llama"), family("llama").bfloat16()):
        beside = Beside(model)
        before, _ = beside.step([7, 8, 9])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        assert not beside.decoder.fresh
        after, own = Beside(model).step([7, 8, 9])
        assert apart(after, own) < (1e-5 if own.dtype == model.dtype else 0.05)
        assert apart(after, before) > 1e-2


def test_weights_that_are_trained_are_never_read_from_a_copy(monkeypatch):
    """A fused step changes weights without a new version."""
    monkeypatch.setattr(decoding, "_STEPS_BEFORE", 2)
    model = lora(family("llama").bfloat16().float())
    trained = [each for name, each in model.named_parameters() if "lora_" in name]
    model.requires_grad_(False)
    for each in trained:
        each.requires_grad_(True)
    beside = Beside(model)
    for tokens in ([7, 8, 9], [11, 3, 60]):
        beside.step(tokens)
    assert len(beside.decoder._native._held) == 4 * 7 + 1  # the base, not its adapters
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)
    for each in trained:
        each.grad = torch.ones_like(each)
    versions = [each._version for each in trained]
    optimizer.step()
    assert versions == [each._version for each in trained], "PyTorch tells now: the copies may be simpler"
    after, own = Beside(model).step([7, 8, 9])
    assert apart(after, own) < 1e-5


def test_narrow_weights_change_not_a_bit(monkeypatch):
    model = family("llama").bfloat16().float().requires_grad_(False)
    monkeypatch.setattr(decoding, "_STEPS_BEFORE", 2)
    beside, wide = Beside(model), Beside(model)
    wide.decoder._use_copies = lambda *given: None
    for tokens in ([7, 8, 9], [11, 3, 60], [1, 2, 96]):
        assert torch.equal(beside.step(tokens)[0], wide.step(tokens)[0])
    held = list(beside.decoder._native._held)
    assert len(held) == 4 * 7 + 1
    again = Decoder(model, 2)  # finds them at once
    assert {weight.data_ptr() for weight in again._native._held} == {weight.data_ptr() for weight in held}
    monkeypatch.setattr(decoding, "_SHARE", 1 << 60)
    poor = Beside(family("llama").bfloat16().float().requires_grad_(False))
    for tokens in ([7, 8, 9], [11, 3, 60]):
        poor.step(tokens)
    assert not poor.decoder._native._held


def test_what_it_does_not_know_is_refused_with_a_reason():
    def reason(model):
        with pytest.raises(NotUnderstood) as caught:
            Decoder(model, 1)
        return str(caught.value)

    assert "gpt_neox is none of the families" in reason(family("gpt_neox"))
    assert "are float16" in reason(family("llama").half())
    assert "more than a product" in reason(lora(family("llama"), use_dora=True))
    watched = family("llama")
    watched.model.layers[1].mlp.register_forward_hook(lambda *given: None)
    assert "watches its LlamaMLP" in reason(watched)
    other = family("llama", hidden_act="tanh")
    assert "activation" in reason(other)
    elsewhere = family("llama")
    elsewhere.lm_head.to("meta")
    assert "not all in the memory" in reason(elsewhere)
