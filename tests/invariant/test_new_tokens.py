"""New tokens are single ids from the data on, their rows alone are trained beside an adapter, all is found again."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.api import load, train
from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError
from tests.conftest import build_model, build_tokenizer
from tests.invariant.test_methods import trained_model
from tests.runs import settings, weights

ADDED = {"add_tokens": "qux", "add_special_tokens": "<point>"}
IDS = torch.tensor([[5, 6, 259, 8, 260, 10]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def point_file(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"Go to <point> {n}"}, {"role": "assistant", "content": f"qux {n}"}]}
        for n in range(8)
    ]
    path = tmp_path / "points.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path):
    folder = tmp_path / "base"
    build_model(tie_word_embeddings=request.param).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_an_adapter_trains_only_the_new_rows(base, point_file, tmp_path):
    trained = trained_model(base, point_file, tmp_path / "run", learning_rate=2e-2, **ADDED)
    seen = logits(trained)
    saved = weights(tmp_path / "run")
    rows = {name: tensor for name, tensor in saved.items() if "lora_" not in name}
    tied = len(rows) == 1
    assert tied == ("lm_head.weight" not in weights(base))
    assert all(tensor.shape == (2, 32) for tensor in rows.values())
    assert not any(torch.allclose(tensor[0], tensor[1], atol=1e-3) for tensor in rows.values())
    # the older rows are those of the base, to the bit
    merged = load(str(tmp_path / "run"), use_cpu=True)
    embedding = merged.model.get_input_embeddings().weight
    assert embedding.shape[0] == 261
    assert torch.equal(embedding[:259], weights(base)["model.embed_tokens.weight"])
    assert (merged.model.get_output_embeddings().weight is embedding) == tied
    torch.testing.assert_close(logits(merged.model), seen, atol=2e-5, rtol=2e-5)
    # text may spell them, in chat as in training
    ids = merged.template.prompt_ids(Conversation((Turn("user", "Go to <point> 3qux"),)))
    assert {259, 260} <= set(ids)
    # PEFT alone goes by the tokenizer's length
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    torch.testing.assert_close(logits(adapted), seen, atol=2e-5, rtol=2e-5)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(again), seen, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"additional_target": "embed_tokens,lm_head"},
        {"additional_target": "embed_tokens", "lora_init": "pissa"},
        {"quantization_bit": 4},
        {"finetuning_type": "full"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    ],
    ids=["whole", "pissa", "4-bit", "full", "freeze"],
)
def test_new_rows_with_other_methods(base, point_file, tmp_path, changes):
    seen = logits(trained_model(base, point_file, tmp_path / "run", learning_rate=1e-2, **ADDED, **changes))
    ours = load(str(tmp_path / "run"), use_cpu=True).model
    # A quantized run is found again over the whole base, so that its rounding is the difference.
    near = {"atol": 0.15, "rtol": 0.0} if "quantization_bit" in changes else {"atol": 2e-5, "rtol": 2e-5}
    torch.testing.assert_close(logits(ours), seen, **near)
    assert (seen - logits(build_model(vocab_size=261))).abs().max() > 0.5
    auto = AutoModelForCausalLM if "finetuning_type" in changes else AutoPeftModelForCausalLM
    theirs = auto.from_pretrained(tmp_path / "run", dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), seen, **near)
    assert AutoTokenizer.from_pretrained(tmp_path / "run").convert_tokens_to_ids(["qux", "<point>"]) == [259, 260]


def test_a_new_adapter_on_one_with_new_tokens(tiny_folder, point_file, tmp_path):
    train(settings(tiny_folder, point_file, tmp_path / "first", learning_rate=2e-2, **ADDED))
    upon = {"adapter_name_or_path": str(tmp_path / "first")}
    again = {**upon, "create_new_adapter": True, "add_tokens": "qux,zap"}
    seen = logits(trained_model(tiny_folder, point_file, tmp_path / "second", **again))
    ours = load(str(tmp_path / "second"), use_cpu=True)
    assert ours.model.get_input_embeddings().weight.shape[0] == 262
    torch.testing.assert_close(logits(ours.model), seen, atol=2e-5, rtol=2e-5)
    with pytest.raises(ModelError, match="cannot get new tokens"):
        train(settings(tiny_folder, point_file, tmp_path / "third", **upon, add_tokens="zap"))
    seen = logits(trained_model(tiny_folder, point_file, tmp_path / "fourth", **upon, **ADDED))
    torch.testing.assert_close(logits(load(str(tmp_path / "fourth"), use_cpu=True).model), seen, atol=2e-5, rtol=2e-5)


def test_prepared_data_knows_the_new_tokens(tiny_folder, point_file, tmp_path):
    records = {
        name: train(settings(tiny_folder, point_file, tmp_path / name, max_steps=1, **changes))
        for name, changes in (("without", {}), ("with", ADDED), ("plain", {"add_tokens": "qux,<point>"}))
    }
    tokens = {name: record["data"]["tokens"] for name, record in records.items()}
    assert tokens["with"] == tokens["plain"] == tokens["without"] - 8 * (len("<point>") - 1) - 8 * (len("qux") - 1)
    assert records["with"]["data"]["fingerprint"] != records["without"]["data"]["fingerprint"]


@pytest.mark.parametrize("kind", ["rows", "tables", "modules"])
def test_an_adapter_with_new_tokens_from_elsewhere(tiny_folder, tmp_path, kind):
    """PEFT writes no note about the vocabulary: its size shows in what the adapter holds."""
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    base.resize_token_embeddings(264)
    options = {"rows": {"trainable_token_indices": [259, 263]}, "modules": {"modules_to_save": ["embed_tokens"]}}
    made = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], **options.get(kind, {})))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    made.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    made.save_pretrained(tmp_path / "made", save_embedding_layers=kind == "tables")
    build_tokenizer().save_pretrained(tmp_path / "made")
    ours = load(str(tmp_path / "made"), use_cpu=True).model
    assert ours.get_input_embeddings().weight.shape[0] == 264
    ids = torch.tensor([[5, 6, 259, 8, 263, 10]])
    # A new row that the adapter does not hold is nobody's: that of the head in `modules`, those between in `rows`.
    known = {"rows": [*range(260), 263], "tables": list(range(264)), "modules": list(range(259))}[kind]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits[..., known], made(ids).logits[..., known], atol=2e-5, rtol=2e-5)
