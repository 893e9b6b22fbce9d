"""What ends a run from outside, in words that help: no memory left, no disk left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from burnish.config import Settings
from burnish.errors import BurnishError, RunFolderError
from burnish.runs.files import is_disk_full

if TYPE_CHECKING:
    from burnish.train.loop import Loop

# What torch says where it has no error of its own kind: the CPU's allocator, and Apple's.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory: you tried to allocate", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on whichever device, or Python found no memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def explained(settings: Settings, loop: Callable[[], Loop | None]) -> Iterator[None]:
    """While the block runs, turn running out of memory or disk into errors that say what to do.

    Args:
        loop: the loop of the run, None before it is built.
    Raises:
        BurnishError: there is no memory left.
        RunFolderError: the disk is full.
    """
    try:
        yield
    except BurnishError:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            raise _no_memory(error, settings, loop()) from error
        if is_disk_full(error):
            place = getattr(error, "filename", None)
            raise RunFolderError(
                f"the disk is full: {error}",
                at=str(place or settings.training.output_dir),
                fix="free some space, then go on with `resume_from_checkpoint: true`",
            ) from error
        raise


def _no_memory(error: BaseException, settings: Settings, loop: Loop | None) -> BurnishError:
    said = str(error).strip().partition("\n")[0].partition(". ")[0]
    device = "GPU" if isinstance(error, torch.OutOfMemoryError) or "MPS" in said else "machine"
    saved = loop is not None and loop.progress.step > 0 and settings.training.save_strategy != "no"
    then = "; then `resume_from_checkpoint: true` goes on from the last checkpoint" if saved else ""
    return BurnishError(
        f"the {device} has too little memory {_moment(loop)} ({said or 'no memory left'})",
        at=_batch(loop),
        fix=f"{_advice(settings, loop)}{then}",
    )


def _moment(loop: Loop | None) -> str:
    if loop is None:
        return "to load the model"
    step = loop.progress.step
    return f"for the evaluation after step {step}" if loop.evaluates else f"for step {step + 1}"


def _batch(loop: Loop | None) -> str | None:
    """The micro-batch with the most tokens among those of the step that failed."""
    if loop is None or loop.evaluates:
        return None
    parts = loop.plan.step(loop.progress.step, loop.accelerator.process_index)
    batches = [loop.train_batch(numbers) for numbers in parts if numbers]
    if not batches:
        return None
    largest = max(batches, key=lambda batch: batch.tokens)
    count = f"{len(batches)} micro-batches, the largest" if len(batches) > 1 else "a batch"
    lengths = largest.document_lengths
    return f"{count} of {largest.tokens} tokens in {len(lengths)} samples, the longest of {max(lengths)} tokens"


def _advice(settings: Settings, loop: Loop | None) -> str:
    """What would help and is not done yet, the mildest first."""
    training, found = settings.training, []
    if loop is not None and loop.evaluates:
        rows = training.per_device_eval_batch_size
        return f"a per_device_eval_batch_size below {rows}, or a cutoff_len below {settings.data.cutoff_len}"
    if loop is not None:
        rows, parts = training.per_device_train_batch_size, training.gradient_accumulation_steps
        if rows > 1:
            half = f"per_device_train_batch_size: {rows // 2} with gradient_accumulation_steps: {parts * 2}"
            found.append(f"{half} (the same training)")
        if not training.gradient_checkpointing:
            found.append("gradient_checkpointing: true (slower, the same training)")
        found.append(f"a cutoff_len below {settings.data.cutoff_len}")
    if settings.tuning.finetuning_type == "full":
        found.append("finetuning_type: lora")
    elif not settings.flat().get("quantization_bit"):
        found.append("quantization_bit: 4 (QLoRA)")
    return ", or ".join(found or ["a smaller model"])
