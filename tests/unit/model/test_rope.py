"""Stretched positions have the factor that the lengths give, reload alike, and refuse what cannot be stretched."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from burnish.api import load, train
from burnish.errors import ModelError
from burnish.model.rope import forget_longest_text, stretched
from tests.conftest import build_model, build_tokenizer
from tests.invariant.test_methods import trained_model
from tests.runs import settings

IDS = torch.arange(3, 63)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_the_factor_is_how_often_the_own_length_fits():
    config = build_model().config  # 512 positions
    changes = stretched(config, "linear", 1100)
    assert changes["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}
    assert changes["max_position_embeddings"] == 1536
    llama = stretched(config, "llama3", 1000)["rope_parameters"]
    assert (llama["factor"], llama["original_max_position_embeddings"], llama["high_freq_factor"]) == (2.0, 512, 4.0)
    assert "max_position_embeddings" not in stretched(config, "dynamic", 1000)
    assert stretched(config, "yarn", 512) == {}


def test_what_cannot_be_stretched_is_refused():
    config = build_model().config
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ModelError, match=r"stretched already \(yarn, 512 tokens\)"):
        stretched(config, "linear", 1000)
    with pytest.raises(ModelError, match="gpt2 has no rotary positions"):
        stretched(GPT2Config(), "linear", 4000)


@pytest.fixture
def short(tmp_path):
    """A model for 32 tokens only."""
    build_model(max_position_embeddings=32, initializer_range=0.2).save_pretrained(tmp_path / "short")
    build_tokenizer().save_pretrained(tmp_path / "short")
    return tmp_path / "short"


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stretched_model_reloads_alike(short, chat_file, tmp_path, kind, method):
    changes = {"rope_scaling": kind, "finetuning_type": method, "max_steps": 2, "learning_rate": 1e-2}
    trained = trained_model(short, chat_file, tmp_path / "run", **changes)
    seen = logits(trained)
    assert trained.config.rope_parameters["rope_type"] == kind
    assert trained.config.rope_parameters["factor"] == 8.0
    ours = load(str(tmp_path / "run"), use_cpu=True).model
    torch.testing.assert_close(logits(ours), seen, atol=2e-4, rtol=2e-4)
    if method == "full":
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
        torch.testing.assert_close(logits(again), seen, atol=2e-4, rtol=2e-4)
    else:  # an adapter's files cannot tell; whoever loads it without Burnish gives the base these values
        kept = json.loads((tmp_path / "run" / "burnish_base.json").read_text())["config"]
        config = AutoConfig.from_pretrained(short, **kept)
        base = AutoModelForCausalLM.from_pretrained(short, config=config, dtype=torch.float32)
        again = PeftModel.from_pretrained(base, tmp_path / "run")
        torch.testing.assert_close(logits(again), seen, atol=2e-4, rtol=2e-4)
        plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
        assert not torch.allclose(logits(plain), seen, atol=1e-2)


def test_going_on_with_a_stretched_adapter_stretches_once(short, chat_file, tmp_path):
    train(settings(short, chat_file, tmp_path / "first", rope_scaling="yarn", max_steps=1))
    upon = {"rope_scaling": "yarn", "adapter_name_or_path": str(tmp_path / "first"), "max_steps": 1}
    seen = logits(trained_model(short, chat_file, tmp_path / "second", **upon))
    torch.testing.assert_close(logits(load(str(tmp_path / "second"), use_cpu=True).model), seen, atol=2e-4, rtol=2e-4)


def test_dynamic_scaling_forgets_longer_texts():
    model = build_model(
        max_position_embeddings=32,
        initializer_range=0.2,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )
    forget_longest_text(model)
    with torch.no_grad():
        before = model(IDS[:, :40]).logits
        model(IDS)
        torch.testing.assert_close(model(IDS[:, :40]).logits, before)
