"""Supervised fine-tuning: the cross-entropy of the assistant's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.batch.chunks import conversation_chunk
from burnish.batch.collate import Batch, collate_packed, collate_padded
from burnish.batch.prepare import prepare
from burnish.config import Settings
from burnish.template import Example
from burnish.train.forward import SupervisedLoss
from burnish.train.stages import Stage
from burnish.train.user_code import load_object


def collate(examples: Sequence[Example], numbers: Sequence[int], packed: bool, pad_id: int) -> Batch:
    """One padding-free row, or a padded block where the model cannot keep documents apart."""
    if packed:
        return collate_packed(examples, numbers)
    return collate_padded(examples, numbers, pad_id=pad_id)


def module(settings: Settings, model: Any, packed: bool, datasets: Sequence[str]) -> SupervisedLoss:
    """The model with its loss."""
    own = settings.tuning.loss_function
    return SupervisedLoss(
        model,
        packed=packed,
        smoothing=settings.training.label_smoothing_factor,
        accuracy=settings.tuning.compute_accuracy,
        own=load_object(own, "loss_function") if own else None,
        datasets=datasets,
    )


STAGE = Stage("sft", conversation_chunk, prepare, collate, module)
