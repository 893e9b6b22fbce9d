"""KTO: from answers that are each marked desirable or not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from burnish import log
from burnish.batch.collate import Layout, collate, collate_feedback, cross_answers
from burnish.batch.judged import feedback_chunk
from burnish.config import Settings
from burnish.errors import DataError
from burnish.losses.kto import BALANCED, LabelBalance, label_balance
from burnish.template import Example
from burnish.train.preference import FeedbackLoss
from burnish.train.reference import find_reference
from burnish.train.stages import Parts, Stage
from burnish.train.stages.dpo import extend


def check(settings: Settings, marks: np.ndarray) -> None:
    """Say how many answers have each label, and which weights would balance them where they are out of balance.

    Raises:
        DataError: all answers have the same label.
    """
    chosen = settings.preference
    liked = int((marks > 0).sum())
    found = label_balance(liked, len(marks) - liked, chosen.kto_chosen_weight, chosen.kto_rejected_weight)
    log.say(f"{found.desirable} desirable and {found.undesirable} undesirable answers")
    if not found.desirable or not found.undesirable:
        missing = "undesirable" if found.desirable else "desirable"
        raise DataError(
            f"kto needs both kinds of answers, and there is no {missing} one",
            at="dataset",
            fix="add some, look at the column of the labels (kto_tag), or use stage: sft",
        )
    if found.ratio is not None and not found.balanced:
        log.note(_advice(found))


def _advice(found: LabelBalance) -> str:
    assert found.desirable_weights is not None
    assert found.undesirable_weights is not None
    low, high = BALANCED
    (chosen_low, chosen_high), (rejected_low, rejected_high) = found.desirable_weights, found.undesirable_weights
    return (
        f"the labels are out of balance: weighed, there are {found.ratio:.2f} desirable answers to an undesirable "
        f"one, and kto learns best at {low:g} to {high:.2f}; set kto_chosen_weight to {chosen_low:.2f} to "
        f"{chosen_high:.2f}, or kto_rejected_weight to {rejected_low:.2f} to {rejected_high:.2f}"
    )


def module(parts: Parts) -> FeedbackLoss:
    """The model with its loss over marked answers."""
    chosen = parts.settings.preference
    assert parts.reference is not None
    return FeedbackLoss(
        parts.model,
        packed=parts.packed,
        reference=parts.reference,
        beta=chosen.pref_beta,
        desirable_weight=chosen.kto_chosen_weight,
        undesirable_weight=chosen.kto_rejected_weight,
        pref_ftx=chosen.pref_ftx,
    )


def before_step(module: Any, micro: Sequence[Sequence[Example]], layout: Layout, accelerator: Any) -> None:
    """Estimate the KL that all answers of an optimizer step are compared with.

    Prompts meet answers of the whole step, those of other ranks too, in an order that does not depend on who holds
    what; so however the step is cut, it is the same estimate, and a rank with a single answer has one.
    """
    everywhere = gather_object([list(part) for part in micro])  # the micro-batches of all ranks
    crossed = cross_answers(sorted((one for part in everywhere for one in part), key=_mixed), layout.cutoff_len)
    size = max(1, *(len(part) for part in everywhere))
    parts = [collate(crossed[start : start + size], (), layout) for start in range(0, len(crossed), size)]
    own = parts[accelerator.process_index :: accelerator.num_processes]
    rounds = math.ceil(len(parts) / accelerator.num_processes)
    # Shards are gathered from all ranks, so each runs as many forward passes: the last one may be a stand-in.
    asked = [*own, *parts[: rounds - len(own)]]
    accelerator.unwrap_model(module).measure(asked, accelerator, module, counted=len(own))


def _mixed(example: Example) -> bytes:
    """What examples are sorted by: a random order that follows from their tokens alone."""
    return hashlib.sha256(np.array([example.mark > 0, *example.input_ids], dtype=np.int32).tobytes()).digest()


STAGE = Stage(
    "kto",
    feedback_chunk,
    collate_feedback,
    module,
    extend=extend,
    reference=find_reference,
    check=check,
    before_step=before_step,
)
