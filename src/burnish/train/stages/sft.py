"""Supervised fine-tuning: the cross-entropy of the assistant's tokens."""

from __future__ import annotations

from burnish.batch.chunks import conversation_chunk
from burnish.batch.collate import collate
from burnish.train.forward import SupervisedLoss
from burnish.train.stages import Parts, Stage
from burnish.user_code import load_object


def module(parts: Parts) -> SupervisedLoss:
    """The model with its loss."""
    settings = parts.settings
    own = settings.tuning.loss_function
    return SupervisedLoss(
        parts.model,
        packed=parts.packed,
        smoothing=settings.training.label_smoothing_factor,
        accuracy=settings.tuning.compute_accuracy,
        own=load_object(own, "loss_function") if own else None,
        datasets=parts.datasets,
    )


STAGE = Stage("sft", conversation_chunk, collate, module)
