"""What the run's own model computes: the standard that every export is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from burnish import log
from burnish.errors import BurnishError
from burnish.export.subject import Subject
from burnish.export.verify import Trial, compare, without_the_adapter


@dataclass
class Standard:
    """The run's logits on the conversations of the trial, and those of its base where an adapter was trained."""

    trial: Trial
    logits: list[Tensor]
    base_logits: list[Tensor] | None


def ask(subject: Subject) -> Standard:
    """The run's own model on the conversations, its last adapter beside the weights."""
    loaded = subject.load(subject.compute_dtype, merge=False)
    trial = Trial(loaded.tokenizer, subject.template(loaded))
    logits = trial.logits(loaded.model)
    base = None
    if loaded.source.adapters:
        with without_the_adapter(loaded.model):
            base = trial.logits(loaded.model)
    return Standard(trial, logits, base)


def over_its_own_base(subject: Subject, run: Standard, found: list[Tensor]) -> dict[str, Any]:
    """For an adapter trained over quantized weights: how far the export is from the model it was trained as."""
    kind = subject.trained_over
    if kind is None:
        return {}
    try:
        loaded = subject.load(subject.compute_dtype, merge=False, quantization=kind)
    except BurnishError as error:  # bitsandbytes is not installed here
        log.note(f"not compared with the {kind} base of the training: {error.what}")
        return {}
    return {"over_training_base": {"base": str(kind), **compare(run.trial.logits(loaded.model), found).record()}}
