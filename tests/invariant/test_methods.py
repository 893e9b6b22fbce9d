"""Each method trains what it says, leaves the rest alone, and is found again as it was trained."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from burnish.api import load, train
from burnish.model.adapter import attach_lora
from burnish.model.residual import start_from_weights
from burnish.model.save import load_adapter_weights, save_weights
from burnish.train import job, resume
from tests.conftest import build_model
from tests.runs import settings, weights

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


# -- freeze -------------------------------------------------------------------------------------------------------


def test_freeze_leaves_all_other_weights_bit_identical(tiny_folder, chat_file, tmp_path, capsys):
    some = {"freeze_trainable_layers": 1, "freeze_trainable_modules": "mlp", "freeze_extra_modules": "norm"}
    record = train(settings(tiny_folder, chat_file, tmp_path / "run", finetuning_type="freeze", **some))
    assert "freeze: mlp of layer 1 and norm" in capsys.readouterr().out
    before, after = weights(tiny_folder), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    mlp = {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert changed == mlp | {"model.norm.weight"}
    assert record["model"]["trainable"] == 3 * 32 * 64 + 32
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    torch.testing.assert_close(load(str(tmp_path / "run"), use_cpu=True).model(IDS).logits, logits(again))


# -- LoRA ---------------------------------------------------------------------------------------------------------

STARTS = ["default", "gaussian", "orthogonal", "pissa", "olora"]


def started(model, start, rounds=16, **options):
    tuned, _ = attach_lora(model, start=start, **{"rank": 4, **options})
    return tuned, start_from_weights(tuned, start, rounds) if start in ("pissa", "olora") else None


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "alpha": 16}], ids=["", "dora", "rs"])
def test_every_start_leaves_the_model_as_it_was(start, options):
    model = build_model(initializer_range=0.3)
    before, untouched = logits(model), {name: p.clone() for name, p in model.named_parameters()}
    tuned, factors = started(model, start, **options)
    torch.testing.assert_close(logits(tuned), before, atol=2e-5, rtol=2e-5)
    own = {name.replace("base_model.model.", "").replace("base_layer.", ""): p for name, p in tuned.named_parameters()}
    changed = {name for name, p in untouched.items() if not torch.equal(own[name], p)}
    assert bool(changed) == (factors is not None)
    moving = {name for name, p in tuned.named_parameters() if p.requires_grad and p.count_nonzero()}
    assert any("lora_A" in name for name in moving)


@pytest.mark.parametrize("rounds", [-1, 16])
def test_pissa_takes_the_largest_singular_values_out(rounds):
    model = build_model(initializer_range=0.3)
    weight = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    tuned, _ = started(model, "pissa", rounds)
    left = torch.linalg.svdvals(tuned.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight)
    torch.testing.assert_close(left[: 32 - 4], torch.linalg.svdvals(weight)[4:], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_init": "gaussian"},
        {"lora_init": "orthogonal"},
        {"pissa_init": True},
        {"pissa_init": True, "use_rslora": True, "lora_alpha": 3},
        {"pissa_init": True, "use_dora": True},
        {"lora_init": "olora", "pure_bf16": True},
        {"lora_init": "olora", "use_dora": True, "use_rslora": True},
        {"use_dora": True, "packing": True},
        {"additional_target": "embed_tokens"},
        {"additional_target": "lm_head,norm"},
        {"lora_target": r"model\.layers\.1\..*(q|v)_proj"},
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()) or "plain",
)
def test_what_is_saved_is_what_was_trained(tiny_folder, chat_file, tmp_path, changes):
    """Merged by Burnish, on top by PEFT alone, and merged by PEFT and saved: all give the trained model's logits."""
    seen = logits(trained_model(tiny_folder, chat_file, tmp_path / "run", learning_rate=2e-2, **changes)).float()
    near = {"atol": 0.05, "rtol": 0.05} if "pure_bf16" in changes else {"atol": 2e-5, "rtol": 2e-5}
    assert not torch.allclose(seen, logits(load(str(tiny_folder), use_cpu=True).model), atol=0.1)
    torch.testing.assert_close(logits(load(str(tmp_path / "run"), use_cpu=True).model), seen, **near)
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    torch.testing.assert_close(logits(adapted), seen, **near)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), seen, **near)


def trained_model(model, data, output, **changes):
    """Train, and return the model as it stood in memory after the last step."""
    kept = {}

    def keep(loaded, *rest):
        result = build(loaded, *rest)
        kept["model"] = result.model
        return result

    build = job.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "build_model", keep)
        train(settings(model, data, output, **changes))
    return kept["model"].eval()


def test_a_resumed_run_takes_the_residual_of_its_checkpoint(tmp_path):
    """A machine whose decomposition gives other bits goes on from the start that was saved."""
    model, other = build_model(initializer_range=0.3), build_model(initializer_range=0.3)
    tuned, start = started(model, "pissa", seed=1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    seen = logits(tuned)
    save_weights(tuned, tmp_path, start=start)
    again, fresh = started(other, "pissa", 0, seed=2)
    assert not all(torch.equal(fresh[name], start[name]) for name in start)
    differing, found = load_adapter_weights(again, tmp_path / "adapter_model.safetensors", fresh)
    assert not differing
    assert all(torch.equal(found[name], start[name]) for name in start)
    torch.testing.assert_close(logits(again), seen, atol=2e-5, rtol=2e-5)
    for (_, one), (_, two) in zip(tuned.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


def test_what_is_trained_is_said(tiny_folder, chat_file, tmp_path, capsys):
    whole = {"additional_target": "norm", "add_tokens": "number", "use_dora": True, "pissa_init": True}
    train(settings(tiny_folder, chat_file, tmp_path / "run", lora_target="q_proj,v_proj", max_steps=1, **whole))
    said = " ".join(capsys.readouterr().out.split())
    assert "LoRA: rank 4 (DoRA, pissa) on q_proj, v_proj · all of norm · the rows of 1 new token" in said
    assert "saved as plain LoRA of rank 8 over the original base" in said
    assert "1 new token, the vocabulary has 260 rows (it had 259)" in said


# -- from scratch, and float32 norms ----------------------------------------------------------------------------------


def test_from_scratch_only_the_shape_is_taken(tiny_folder, chat_file, tmp_path):
    """No weights need be there; the same seed gives the same model, another seed another one."""
    shape = tmp_path / "shape"
    shutil.copytree(tiny_folder, shape, ignore=shutil.ignore_patterns("*.safetensors"))
    scratch = {"stage": "pt", "finetuning_type": "full", "train_from_scratch": True, "cutoff_len": 64}
    text = tmp_path / "text.txt"
    text.write_text("One line of text.\n" * 40)
    for name, changes in (("one", {}), ("two", {}), ("other", {"seed": 4})):
        train(settings(shape, text, tmp_path / name, **scratch, max_steps=1, learning_rate=0.0, **changes))
    one, two, other = (weights(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert not torch.equal(one["model.embed_tokens.weight"], weights(tiny_folder)["model.embed_tokens.weight"])
    assert one["model.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.05)  # Llama's own initializer_range


@pytest.mark.parametrize("method", ["lora", "freeze"])
def test_float32_norms_train_with_16_bit_weights(tiny_folder, chat_file, tmp_path, method):
    wide = {"finetuning_type": method, "upcast_layernorm": True, "pure_bf16": True, "freeze_extra_modules": "norm"}
    wide |= {"gradient_checkpointing": True, "learning_rate": 1e-2}
    model = trained_model(tiny_folder, chat_file, tmp_path / "run", **wide)
    norms = {name: p.dtype for name, p in model.named_parameters() if "norm" in name}
    assert len(norms) == 5
    assert set(norms.values()) == {torch.float32}
    ours = load(str(tmp_path / "run"), use_cpu=True).model
    torch.testing.assert_close(logits(ours), logits(model).float(), atol=0.05, rtol=0.05)


def test_the_space_for_a_frozen_run_counts_all_weights(tiny_folder, chat_file, tmp_path, monkeypatch):
    """What is saved is a whole model, however little of it is trained."""
    asked = []
    monkeypatch.setattr(resume, "require_room", lambda _, size, *__: asked.append(size))
    small = {"finetuning_type": "freeze", "freeze_trainable_layers": 0, "freeze_extra_modules": "norm", "max_steps": 1}
    train(settings(tiny_folder, chat_file, tmp_path / "run", **small))
    record = train(settings(tiny_folder, chat_file, tmp_path / "adapter", max_steps=1))
    trainable = record["model"]["trainable"]
    assert asked == [sum(t.numel() * 4 for t in weights(tiny_folder).values()), trainable * 4]


def test_the_best_model_of_a_residual_run_is_found_again(tiny_folder, chat_file, tmp_path):
    """Loading the best checkpoint back, while the model is in memory, keeps start and residual together."""
    best = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
    best |= {"eval_steps": 2, "val_size": 3, "pissa_init": True, "learning_rate": 2e-2, "add_tokens": "number"}
    model = trained_model(tiny_folder, chat_file, tmp_path / "run", **best)
    ours = load(str(tmp_path / "run"), use_cpu=True).model
    torch.testing.assert_close(logits(ours), logits(model), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "changes",
    [{"pissa_init": True}, {"add_tokens": "yes"}, {"pissa_init": True, "add_tokens": "yes"}],
    ids=["pissa", "tokens", "both"],
)
def test_the_reference_of_dpo_is_the_start_whatever_the_method(tiny_folder, tmp_path, changes):
    rows = [{"instruction": f"Say {n}", "chosen": f"{n} yes", "rejected": "no"} for n in range(4)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    given = settings(tiny_folder, tmp_path, tmp_path / "run", stage="dpo", max_steps=2, learning_rate=2e-2, **changes)
    train({**given, "dataset": "pairs", "dataset_dir": str(tmp_path)})
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] < losses[0]
