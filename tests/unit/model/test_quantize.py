"""Quantized bases: which layers, what they weigh, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from burnish.api import load, train
from burnish.errors import MissingExtraError, ModelError
from burnish.model import quantize
from burnish.model.adapter import attach_lora, count_parameters, linear_layer_names
from burnish.model.load import load_model
from burnish.model.quantize import Quantization, quantization_of
from burnish.model.source import find_model, trained_over
from burnish.train.summary import model_line
from tests.conftest import build_model, build_tokenizer
from tests.runs import settings

pytest.importorskip("bitsandbytes")

ALL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
BNB = ("Linear4bit", "Linear8bitLt")
EACH_KIND = pytest.mark.parametrize("kind", [Quantization(4), Quantization(4, "fp4", False), Quantization(8)], ids=str)


def quantized(folder, kind, **options):
    return load_model(find_model(str(folder)), dtype=torch.float32, quantization=kind, **options).model


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untied") / "model"
    build_model(tie_word_embeddings=False).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_what_the_settings_ask_for():
    assert quantization_of(None) is quantization_of(16) is None
    assert quantization_of(8, "fp4", False) == Quantization(8, "fp4", False)
    assert [str(kind) for kind in (Quantization(8), Quantization(4), Quantization(4, "fp4", False))] == [
        "8-bit",
        "4-bit nf4 (double)",
        "4-bit fp4",
    ]


@EACH_KIND
def test_all_linear_layers_but_the_head_are_quantized_and_found(untied_folder, kind):
    model = quantized(untied_folder, kind)
    kinds = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if type(module).__name__ in BNB}
    assert sorted(kinds) == ALL == linear_layer_names(model)
    assert type(model.lm_head) is nn.Linear
    tuned, targets = attach_lora(model, rank=2)
    assert targets == ALL
    assert {name.split(".")[-3] for name, p in tuned.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


@EACH_KIND
def test_weights_are_counted_as_they_are_and_bytes_as_they_are_held(tiny_folder, kind):
    """Two layers of q, o [32, 32], k, v [16, 32], gate, up [64, 32], down [32, 64]: 18432 weights, 288 blocks of 64."""
    counts = count_parameters(quantized(tiny_folder, kind))
    assert counts.total == count_parameters(build_model()).total
    others = 4 * (259 * 32 + 5 * 32)  # embeddings and norms in fp32
    if kind.bits == 8:
        held = 18432 + 4 * 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32)  # one scale a row
    elif kind.double:
        held = 18432 // 2 + 288 + 4 * 14  # one byte a scale, and each layer has one scale for its scales
    else:
        held = 18432 // 2 + 4 * 288
    assert counts.footprint_mb == pytest.approx((held + others) / 1e6, abs=1e-9)
    if kind.bits == 8:  # the first forward pass moves the scales elsewhere
        model = quantized(tiny_folder, kind)
        model(torch.tensor([[5, 6]]))
        assert count_parameters(model).footprint_mb == counts.footprint_mb


@pytest.mark.parametrize("bits", [4, 8])
def test_additional_modules_stay_whole_and_are_trained(untied_folder, chat_file, tmp_path, bits):
    changes = {"quantization_bit": bits, "lora_target": "q_proj", "additional_target": ["up_proj", "lm_head"]}
    record = train(settings(untied_folder, chat_file, tmp_path / "run", max_steps=1, **changes))
    lora, up, head = 2 * 2 * 4 * 32, 2 * 64 * 32, 259 * 32
    assert record["model"]["trainable"] == lora + up + head
    model = load(str(tmp_path / "run"), use_cpu=True).model
    for name, module in model.named_modules():
        if name.endswith("modules_to_save.default"):
            assert type(module) is nn.Linear
            assert module.weight.dtype == torch.float32
    assert type(model.get_submodule("base_model.model.model.layers.0.mlp.gate_proj")).__name__ in BNB


def test_the_record_and_the_line_name_the_quantization(tiny_folder, chat_file, tmp_path, capsys):
    record = train(settings(tiny_folder, chat_file, tmp_path / "run", quantization_bit=4, max_steps=1))
    assert record["model"]["quantization"] == "4-bit nf4 (double)"
    assert record["model"]["parameters"] - record["model"]["trainable"] == count_parameters(build_model()).total
    line = model_line(record["model"])
    assert " · base in 4-bit nf4 (double) · float32 · " in line
    assert line in capsys.readouterr().out
    assert trained_over(find_model(str(tmp_path / "run"))) == Quantization(4)
    assert trained_over(find_model(str(tiny_folder))) is None


def test_only_adapter_weights_are_written(tiny_folder, chat_file, tmp_path):
    run = tmp_path / "run"
    train(settings(tiny_folder, chat_file, run, quantization_bit=4, max_steps=2, save_strategy="steps", save_steps=1))
    for folder in (run, run / "checkpoint-1"):
        assert not list(folder.glob("model*.safetensors"))
        assert (folder / "adapter_model.safetensors").stat().st_size < 60_000  # 18 kB a matrix pair of rank 4


def test_without_bitsandbytes_the_extra_is_named(tiny_folder, monkeypatch):
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="quantization_bit: 4 needs") as caught:
        quantized(tiny_folder, Quantization(4))
    assert caught.value.fix == "pip install 'burnish[quant]'"


def test_an_adapter_meets_another_base_only_with_a_word(tiny_folder, chat_file, tmp_path, capsys):
    train(settings(tiny_folder, chat_file, tmp_path / "first", quantization_bit=8, max_steps=1))
    capsys.readouterr()
    train(settings(tmp_path / "first", chat_file, tmp_path / "second", max_steps=1))
    assert "was trained over a base in 8-bit and now meets a base that is not quantized" in capsys.readouterr().out


def test_a_new_adapter_over_a_quantized_base_is_found_again(tiny_folder, chat_file, tmp_path):
    """The first adapter is merged into whole weights, which are then quantized; loading does the same."""
    train(settings(tiny_folder, chat_file, tmp_path / "first"))
    changes = {"quantization_bit": 4, "create_new_adapter": True, "adapter_name_or_path": str(tmp_path / "first")}
    train(settings(tiny_folder, chat_file, tmp_path / "second", **changes, max_steps=1, learning_rate=0.0))
    base = load(str(tmp_path / "first"), use_cpu=True, quantization_bit=16).model
    again = load(str(tmp_path / "second"), use_cpu=True).model
    expected = base.model.layers[0].mlp.up_proj.weight
    held = again.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    own = dequantize_4bit(held.weight.data, held.weight.quant_state)
    rounded = dequantize_4bit(*quantize_4bit(expected, blocksize=64, compress_statistics=True, quant_type="nf4"))
    assert torch.equal(own, rounded)
    assert not torch.allclose(expected, build_model().model.layers[0].mlp.up_proj.weight, atol=1e-3)


# -- checkpoints that are quantized already ---------------------------------------------------------------------------


def stored(tiny_folder, place, config):
    """A model folder whose config.json says that its weights are quantized."""
    shutil.copytree(tiny_folder, place)
    path = place / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    return place


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


@pytest.mark.parametrize(
    ("config", "packages"),
    [
        (GPTQ, "gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    ],
    ids=["gptq", "awq", "compressed-tensors"],
)
def test_what_a_stored_quantization_needs_is_named(tiny_folder, tmp_path, config, packages, monkeypatch):
    monkeypatch.setattr(quantize, "_is_installed", lambda _: False)
    folder = stored(tiny_folder, tmp_path / "model", config)
    with pytest.raises(MissingExtraError, match=f"a model with {config['quant_method']} weights") as caught:
        load(str(folder), use_cpu=True)
    assert caught.value.fix == f"pip install {packages}"


@pytest.mark.parametrize(
    ("changes", "at"),
    [({"quantization_bit": 4}, "quantization_bit"), ({"finetuning_type": "full"}, "finetuning_type")],
)
def test_weights_that_are_quantized_are_not_quantized_again_nor_trained(tiny_folder, chat_file, tmp_path, changes, at):
    folder = stored(tiny_folder, tmp_path / "model", GPTQ)
    with pytest.raises(ModelError, match="quantized") as caught:
        train(settings(folder, chat_file, tmp_path / "run", **changes))
    assert caught.value.at == at


def test_other_kinds_that_cannot_be_loaded_say_why(tiny_folder, tmp_path):
    folder = stored(tiny_folder, tmp_path / "model", {"quant_method": "aqlm"})
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(folder), use_cpu=True)


@pytest.mark.parametrize("kind", [Quantization(4), Quantization(8)], ids=str)
def test_a_checkpoint_stored_by_bitsandbytes_takes_adapters(tiny_folder, chat_file, tmp_path, kind):
    small = tmp_path / "small"
    quantized(tiny_folder, kind).save_pretrained(small)
    build_tokenizer().save_pretrained(small)
    record = train(settings(small, chat_file, tmp_path / "run", max_steps=2))
    assert record["model"]["quantization"] == "bitsandbytes"
    assert record["model"]["parameters"] - record["model"]["trainable"] == count_parameters(build_model()).total
    model = load(str(tmp_path / "run"), use_cpu=True).model
    assert any(type(module).__name__ in BNB for module in model.modules())
    with pytest.raises(ModelError, match="cannot be merged"):
        load_model(find_model(str(tmp_path / "run")), dtype=torch.float32, merge=True)


def test_a_gguf_file_can_be_quantized_anew(tmp_path):
    from tests.unit.model.test_load import write_gguf

    write_gguf(build_model(), build_tokenizer(), tmp_path / "tiny.gguf")
    model = quantized(tmp_path / "tiny.gguf", Quantization(4))
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert type(model.lm_head) is nn.Linear
