"""Over a quantized base the gradient is right, evaluating changes nothing, and merging happens in whole weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from burnish.api import load, train
from burnish.batch.collate import collate_packed
from burnish.kernels.attention import packed_rows
from burnish.model.adapter import attach_lora
from burnish.model.load import load_model
from burnish.model.loftq import start_from_lost
from burnish.model.quantize import Quantization
from burnish.model.residual import lora_layers
from burnish.model.save import without_adapter
from burnish.model.source import find_model
from burnish.train.forward import SupervisedLoss
from tests.conftest import build_model, build_tokenizer
from tests.invariant.test_training import examples
from tests.runs import settings, weights

pytest.importorskip("bitsandbytes")

KINDS = [
    Quantization(4),
    Quantization(4, double=False),
    Quantization(4, "fp4"),
    Quantization(8),
]
EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """A model whose layers are wide enough for the layout of bitsandbytes' fast CPU kernel: outputs in 32s, inputs in
    64s. Its weights are large, so that a wrong gradient is far off."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    build_model(hidden_size=64, intermediate_size=128, initializer_range=0.2).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def adapted(folder, kind, **options):
    """A model with an adapter that is no longer zero, in training mode."""
    model = load_model(find_model(str(folder)), dtype=torch.float32, quantization=kind).model
    tuned, _ = attach_lora(model, rank=4, **options)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)) * 0.1)
    return tuned.train()


def gradients(model):
    """The loss and the gradient of everything trained, on one packed row."""
    model.zero_grad()
    with packed_rows(without_adapter(model)):
        loss = SupervisedLoss(model, packed=True)(collate_packed(examples(6))).total
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def evaluate(model):
    model.eval()
    with torch.no_grad(), packed_rows(without_adapter(model)):
        SupervisedLoss(model, packed=True)(collate_packed(examples(4, seed=3)))
    model.train()


def dequantized(layer):
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant

    if type(layer).__name__ == "Linear4bit":
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return int8_vectorwise_dequant(layer.weight.data, scales)


@EACH_KIND
def test_the_gradient_is_that_of_lora_over_the_dequantized_weights(wide_folder, kind):
    quantized, whole = adapted(wide_folder, kind), adapted(wide_folder, None)
    layers = dict(quantized.named_modules())
    replaced = 0
    for name, layer in whole.named_modules():
        if name.endswith("base_layer"):
            assert not torch.equal(layer.weight, dequantized(layers[name]))
            layer.weight.data = dequantized(layers[name])
            replaced += 1
    assert replaced == 14  # two layers of seven
    loss, found = gradients(quantized)
    expected_loss, expected = gradients(whole)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@EACH_KIND
def test_evaluating_does_not_change_the_gradient(wide_folder, kind, monkeypatch):
    """On CPUs with AVX512-BF16, a 4-bit layer that is evaluated rewrites its weights and has no gradient afterwards."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = adapted(wide_folder, kind)
    before = gradients(model)
    evaluate(model)
    after = gradients(model)
    assert after[0] == before[0]
    for name, gradient in before[1].items():
        assert torch.equal(after[1][name], gradient), name


@pytest.mark.parametrize("kind", [Quantization(4), Quantization(8)], ids=str)
def test_layers_loaded_and_layers_quantized_afterwards_are_the_same(wide_folder, chat_file, tmp_path, kind):
    """create_new_adapter merges the first adapter into whole weights, and quantizes the sum."""
    train(settings(wide_folder, chat_file, tmp_path / "first", max_steps=1, learning_rate=0.0))  # an adapter of nothing
    source = find_model(str(tmp_path / "first"))
    loaded = load_model(find_model(str(wide_folder)), dtype=torch.float32, quantization=kind).model
    afterwards = load_model(source, dtype=torch.float32, quantization=kind, merge=True)
    assert afterwards.merged == source.adapters
    others = dict(afterwards.model.named_modules())
    compared = 0
    for name, layer in loaded.named_modules():
        if type(layer).__name__ in ("Linear4bit", "Linear8bitLt"):
            assert type(others[name]) is type(layer)
            assert torch.equal(dequantized(others[name]), dequantized(layer)), name
            compared += 1
    assert compared == 14
    assert type(afterwards.model.lm_head) is nn.Linear
    one, two = gradients(attach_lora(loaded)[0].train()), gradients(attach_lora(afterwards.model)[0].train())
    assert one[0] == two[0]


@pytest.mark.parametrize("bits", [4, 8])
def test_evaluating_on_the_way_leaves_the_run_as_it_is(tiny_folder, chat_file, tmp_path, bits):
    (tmp_path / "held.jsonl").write_text(chat_file.read_text().splitlines()[0] + "\n")
    common = {"quantization_bit": bits, "max_steps": 4}
    train(settings(tiny_folder, chat_file, tmp_path / "plain", **common))
    often = {"eval_dataset": [str(tmp_path / "held.jsonl")], "eval_strategy": "steps", "eval_steps": 1}
    record = train(settings(tiny_folder, chat_file, tmp_path / "often", **common, **often))
    assert record["train"]["eval_loss"]
    plain, evaluated = weights(tmp_path / "plain"), weights(tmp_path / "often")
    assert all("lora_" in name for name in plain)  # and no weight of the base
    for name, tensor in plain.items():
        assert torch.equal(evaluated[name], tensor), name


@pytest.mark.parametrize("bits", [4, 8])
def test_gradient_checkpointing_changes_nothing(wide_folder, chat_file, tmp_path, bits):
    common = {"quantization_bit": bits, "max_steps": 2}
    for name, on in (("plain", False), ("checkpointed", True)):
        train(settings(wide_folder, chat_file, tmp_path / name, gradient_checkpointing=on, **common))
    plain, checkpointed = weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_run_talks_as_it_was_trained_and_merges_into_whole_weights(wide_folder, chat_file, tmp_path):
    """Answers come from the quantized base and the adapter on top; merging happens where weights are whole."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    train(settings(wide_folder, chat_file, tmp_path / "run", quantization_bit=4, quantization_type="fp4"))
    ids = torch.randint(3, 259, (1, 12))
    trained = PeftModel.from_pretrained(
        load_model(find_model(str(wide_folder)), dtype=torch.float32, quantization=Quantization(4, "fp4")).model,
        tmp_path / "run",
    ).eval()
    whole = AutoModelForCausalLM.from_pretrained(wide_folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(load(str(tmp_path / "run"), use_cpu=True).model(ids).logits, trained(ids).logits)
        merged = load(str(tmp_path / "run"), use_cpu=True, quantization_bit=16).model
        expected = PeftModel.from_pretrained(whole, tmp_path / "run").eval()(ids).logits
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert not any("lora" in name or "bit" in type(module).__name__ for name, module in merged.named_modules())


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"use_rslora": True, "lora_alpha": 4}], ids=["dora", "rslora"])
@pytest.mark.parametrize("bits", [4, 8])
def test_other_adapters_learn_over_quantized_layers(wide_folder, chat_file, tmp_path, bits, changes):
    record = train(settings(wide_folder, chat_file, tmp_path / "run", quantization_bit=bits, **changes))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert record["train"]["steps"] == len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.5


@pytest.mark.parametrize("kind", [Quantization(4), Quantization(8)], ids=str)
def test_loftq_starts_from_what_quantizing_lost(wide_folder, kind):
    model = load_model(find_model(str(wide_folder)), dtype=torch.float32, quantization=kind).model
    whole = load_model(find_model(str(wide_folder)), dtype=torch.float32).model
    tuned, _ = attach_lora(model, rank=4)
    start_from_lost(tuned, lambda name: whole.get_submodule(name).weight)
    for name, layer in lora_layers(tuned):
        wanted = whole.get_submodule(name).weight
        lost = wanted - dequantized(layer.get_base_layer())
        left = lost - layer.get_delta_weight("default")
        # Eckart-Young: what is left of the best rank-4 approximation are the singular values from the fifth on.
        tail = torch.linalg.svdvals(lost)[4:].square().sum().sqrt()
        torch.testing.assert_close(left.norm(), tail, rtol=1e-3, atol=1e-5)


def test_a_loftq_run_is_nearer_to_the_whole_model_resumes_and_reloads(wide_folder, chat_file, tmp_path):
    common = {"quantization_bit": 4, "save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    first = {}
    for start in ("default", "loftq"):
        train(settings(wide_folder, chat_file, tmp_path / start, **common, lora_init=start, lora_rank=16))
        first[start] = json.loads((tmp_path / start / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    train(settings(wide_folder, chat_file, tmp_path / "whole", max_steps=1))
    whole = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert abs(first["loftq"] - whole) < abs(first["default"] - whole)
    before = weights(tmp_path / "loftq")
    summary = tmp_path / "loftq" / "run.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "status": "failed"}))
    shutil.rmtree(tmp_path / "loftq" / "checkpoint-5")
    again = settings(wide_folder, chat_file, tmp_path / "loftq", **common, lora_init="loftq", lora_rank=16)
    train({**again, "resume_from_checkpoint": True})
    for name, tensor in before.items():
        assert torch.equal(weights(tmp_path / "loftq")[name], tensor), name
