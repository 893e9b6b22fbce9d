"""Runs with other optimizers and schedules: resumed equals uninterrupted, and the settings reach the weights."""

from __future__ import annotations

import json

import pytest
import torch

from burnish.api import train
from burnish.errors import RunFolderError
from tests.invariant.test_training import interrupted, rows
from tests.runs import settings, weights

RUNS = {
    "adam_mini": {"finetuning_type": "full", "use_adam_mini": True, "learning_rate": 1e-3},
    "muon": {"use_muon": True, "optim": "adamw_torch", "loraplus_lr_ratio": 4.0, "weight_decay": 0.1},
    "adamw_8bit": {"finetuning_type": "full", "optim": "adamw_8bit", "learning_rate": 1e-3},
    "adafactor": {"optim": "adafactor", "lr_scheduler_type": "inverse_sqrt", "warmup_steps": 0.2},
    "lion_8bit": {"optim": "lion_8bit", "pure_bf16": True, "learning_rate": 1e-3},
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "pure_bf16": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_resumed_equals_uninterrupted(tiny_folder, chat_file, tmp_path, name):
    common = {"lr_scheduler_type": "cosine", "max_steps": 5, "save_strategy": "steps", **RUNS[name]}
    summary = train(settings(tiny_folder, chat_file, tmp_path / "whole", **common))
    interrupted(tiny_folder, chat_file, tmp_path / "parts", 2, **common)
    train(settings(tiny_folder, chat_file, tmp_path / "parts", **common, resume_from_checkpoint=True))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for key in whole:
        assert torch.equal(whole[key], parts[key]), key
    logged = [{key: row[key] for key in ("step", "loss", "learning_rate")} for row in rows(tmp_path / "whole")]
    assert logged == [{key: row[key] for key in ("step", "loss", "learning_rate")} for row in rows(tmp_path / "parts")]
    assert summary["settings"]["optim"] == name
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_going_on_with_another_optimizer_is_refused(tiny_folder, chat_file, tmp_path):
    common = {"max_steps": 3, "save_strategy": "steps"}
    interrupted(tiny_folder, chat_file, tmp_path, 2, **common)
    with pytest.raises(RunFolderError, match="was trained by adamw, now by lion"):
        train(settings(tiny_folder, chat_file, tmp_path, **common, optim="lion", resume_from_checkpoint=True))


def test_loraplus_trains_b_faster(tiny_folder, chat_file, tmp_path):
    def moved(**changes):
        run = settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1, **changes, overwrite_output_dir=True)
        train({**run, "learning_rate": 1e-3, "lr_scheduler_type": "constant"})
        found = weights(tmp_path / "run")
        return max(tensor.abs().max().item() for name, tensor in found.items() if "lora_B" in name)

    assert moved() == pytest.approx(1e-3, rel=1e-2)  # B starts at 0, and AdamW's first step is the rate
    assert moved(loraplus_lr_ratio=8) == pytest.approx(8e-3, rel=1e-2)


def test_a_share_of_warmup_is_counted_in_steps(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path, max_steps=4, warmup_steps=0.5, learning_rate=1e-3))
    rates = [row["learning_rate"] for row in rows(tmp_path)]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 5e-4])
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["warmup_steps"] == 0.5
