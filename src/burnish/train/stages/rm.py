"""A reward model: a scalar head that scores the better answer of a pair above the worse one."""

from __future__ import annotations

from burnish import log
from burnish.batch.judged import preference_chunk
from burnish.batch.pairs import collate_pairs
from burnish.config import Settings
from burnish.model.load import Loaded
from burnish.model.reward import attach_value_head, head_folder, load_value_head
from burnish.train.preference import ScoreLoss
from burnish.train.stages import Parts, Stage
from burnish.train.stages.dpo import extend as drop_nothing


def extend(settings: Settings, loaded: Loaded) -> None:
    """Put the head on: a fresh one, or that of the reward model that training starts from."""
    drop_nothing(settings, loaded)
    attach_value_head(loaded.model, seed=settings.training.seed)
    folder = head_folder(loaded.source)
    if folder is not None:
        load_value_head(loaded.model, folder)
        log.say(f"the head starts as it is in {folder}")


def module(parts: Parts) -> ScoreLoss:
    """The model with its loss over pairs of scores."""
    return ScoreLoss(parts.model, packed=parts.packed, centring=parts.settings.preference.center_rewards_coefficient)


STAGE = Stage("rm", preference_chunk, collate_pairs, module, unit=2, extend=extend)
