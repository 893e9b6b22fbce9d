"""On a CPU with bf16 instructions, weights and kernels are bfloat16: what holds in float32 holds there too."""

from __future__ import annotations

import shutil

import pytest

from burnish.api import train
from tests.conftest import build_model
from tests.invariant.test_training import check_same_run, interrupted, rows
from tests.machines import with_bf16
from tests.runs import settings


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A model whose heads are as wide as the kernels want them, 64 numbers."""
    made = tmp_path / "wide"
    shutil.copytree(tiny_folder, made)
    build_model(hidden_size=128, num_attention_heads=2, num_key_value_heads=1).bfloat16().save_pretrained(made)
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.1},
        {"finetuning_type": "full", "gradient_accumulation_steps": 2},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"packing": True, "cutoff_len": 80, "num_train_epochs": 3},
        {"gradient_checkpointing": True, "use_dora": True},
    ],
    ids=["lora-dropout", "full", "freeze", "packed", "checkpointing-dora"],
)
def test_resumed_equals_uninterrupted(folder, chat_file, tmp_path, changes):
    common = {**changes, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    with with_bf16():
        train(settings(folder, chat_file, tmp_path / "whole", **common))
        interrupted(folder, chat_file, tmp_path / "parts", 4, **common)
        train(settings(folder, chat_file, tmp_path / "parts", **common, resume_from_checkpoint=True))
    check_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("kernels", [True, False])
def test_it_learns_as_in_float32(folder, chat_file, tmp_path, kernels):
    """The same batches: losses differ by rounding alone, with the kernels and without."""
    common = {"learning_rate": 1e-2, "num_train_epochs": 3, "logging_steps": 1, "fused_layers": kernels}
    train(settings(folder, chat_file, tmp_path / "exact", **common))
    with with_bf16():
        train(settings(folder, chat_file, tmp_path / "rough", **common))
    exact, rough = ([row["loss"] for row in rows(tmp_path / name)] for name in ("exact", "rough"))
    assert exact[-1] < exact[0] - 0.5
    assert exact != rough
    assert max(abs(one - other) for one, other in zip(exact, rough, strict=True)) < 0.02 * exact[0]
