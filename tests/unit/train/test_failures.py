"""Out of memory and out of disk: what is said, and to whom it is said."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from burnish.api import train
from burnish.errors import BurnishError, RunFolderError
from burnish.train import loop as loops
from burnish.train.failures import explained, is_out_of_memory
from tests.runs import settings

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB of which 1 GiB is free."


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(errno.ENOMEM, "out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_allocator_of_the_cpu_says_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


def fail_at(monkeypatch, step, error):
    """Let the forward pass of a step raise."""
    forward = loops.Loop._loss

    def failing(self, batch):
        if self.progress.step + 1 == step:
            raise error
        return forward(self, batch)

    monkeypatch.setattr(loops.Loop, "_loss", failing)


def test_out_of_memory_in_a_step(tiny_folder, chat_file, tmp_path, monkeypatch):
    fail_at(monkeypatch, 3, torch.OutOfMemoryError(CUDA))
    values = settings(
        tiny_folder, chat_file, tmp_path / "run", save_strategy="steps", save_steps=2, gradient_accumulation_steps=2
    )
    with pytest.raises(BurnishError) as caught:
        train(values)
    assert "the GPU has too little memory for step 3 (CUDA out of memory)" in caught.value.what
    assert "2 micro-batches, the largest of " in caught.value.at
    assert "tokens in 2 samples, the longest of " in caught.value.at
    for advice in (
        "per_device_train_batch_size: 1 with gradient_accumulation_steps: 4",
        "gradient_checkpointing: true",
        "a cutoff_len below 256",
        "quantization_bit: 4",
        "`resume_from_checkpoint: true` goes on",
    ):
        assert advice in caught.value.fix
    assert caught.value.exit_code == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    monkeypatch.undo()
    assert train({**values, "resume_from_checkpoint": True})["train"]["steps"] == 6


def test_advice_leaves_out_what_is_done_already(tiny_folder, chat_file, tmp_path, monkeypatch):
    fail_at(monkeypatch, 1, torch.OutOfMemoryError(CUDA))
    changes = {"per_device_train_batch_size": 1, "gradient_checkpointing": True, "finetuning_type": "full"}
    with pytest.raises(BurnishError) as caught:
        train(settings(tiny_folder, chat_file, tmp_path / "run", **changes))
    assert caught.value.fix == "a cutoff_len below 256, or finetuning_type: lora"


def test_out_of_memory_in_an_evaluation_and_before_the_first_step(tiny_folder, chat_file, tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr(loops, "evaluate", no_memory)
    changes = {"val_size": 2, "eval_strategy": "steps", "eval_steps": 2}
    with pytest.raises(BurnishError, match="for the evaluation after step 2") as caught:
        train(settings(tiny_folder, chat_file, tmp_path / "run", **changes))
    assert caught.value.at is None
    assert "per_device_eval_batch_size below" in caught.value.fix
    monkeypatch.setattr("burnish.train.job.build_model", no_memory)
    with pytest.raises(BurnishError, match="to load the model"):
        train(settings(tiny_folder, chat_file, tmp_path / "second"))


def test_a_full_disk_anywhere_is_the_users_to_mend():
    from burnish.config import load_settings

    values = load_settings({"model_name_or_path": "m", "dataset": "d", "output_dir": "out"})
    with pytest.raises(RunFolderError, match="the disk is full") as caught, explained(values, lambda: None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/file")
    assert caught.value.at == "/somewhere/file"
    with pytest.raises(RuntimeError, match="a defect"), explained(values, lambda: None):
        raise RuntimeError("a defect")
