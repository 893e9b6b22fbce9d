"""Direct preference optimization and its relatives: from pairs of a better and a worse answer."""

from __future__ import annotations

from burnish.batch.judged import preference_chunk
from burnish.batch.pairs import collate_pairs
from burnish.config import Settings
from burnish.losses.preference import REFERENCE_FREE
from burnish.model.load import Loaded
from burnish.train.preference import PairLoss
from burnish.train.reference import Reference, find_reference, without_dropout
from burnish.train.stages import Parts, Stage


def extend(settings: Settings, loaded: Loaded) -> None:
    """Turn dropout off, so that two answers are compared by the same network."""
    if settings.preference.disable_dropout:
        without_dropout(loaded.model)


def reference(settings: Settings, loaded: Loaded) -> Reference | None:
    """The policy to compare with, for losses that need one."""
    return None if settings.preference.pref_loss in REFERENCE_FREE else find_reference(settings, loaded)


def module(parts: Parts) -> PairLoss:
    """The model with its loss over pairs."""
    chosen = parts.settings.preference
    return PairLoss(
        parts.model,
        packed=parts.packed,
        reference=parts.reference,
        pref_loss=chosen.pref_loss,
        beta=chosen.pref_beta,
        label_smoothing=chosen.dpo_label_smoothing,
        simpo_gamma=chosen.simpo_gamma,
        pref_ftx=chosen.pref_ftx,
        length_normalised=chosen.pref_length_normalized,
    )


STAGE = Stage(
    "dpo",
    preference_chunk,
    collate_pairs,
    module,
    unit=2,
    extend=extend,
    reference=reference,
)
