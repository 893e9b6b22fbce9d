"""REINFORCE leave-one-out: each answer against the mean reward of the other answers to its prompt."""

from __future__ import annotations

from burnish.batch.collate import collate
from burnish.batch.prompts import prompt_chunk
from burnish.train.policy import LeaveOneOutLoss
from burnish.train.rollouts.build import build_rollouts
from burnish.train.rollouts.methods import LeaveOneOut
from burnish.train.rollouts.phase import Rollouts
from burnish.train.stages import Parts, RolloutParts, Stage
from burnish.train.stages.dpo import extend
from burnish.train.stages.grpo import reference


def module(parts: Parts) -> LeaveOneOutLoss:
    """The model with its loss over answers."""
    chosen = parts.settings.rollout
    return LeaveOneOutLoss(
        parts.model,
        packed=parts.packed,
        temperature=parts.settings.generating.temperature,
        clip_low=chosen.epsilon,
        clip_high=chosen.epsilon_high or chosen.epsilon,
    )


def rollouts(parts: RolloutParts) -> Rollouts:
    """Groups of answers, and rewards less the KL against those of the others."""
    chosen = parts.settings.rollout
    method = LeaveOneOut(beta=chosen.beta or 0.0, normalise=chosen.normalize_advantages)
    return build_rollouts(parts, method, units=1)


STAGE = Stage(
    "rloo",
    prompt_chunk,
    collate,
    module,
    extend=extend,
    reference=reference,
    rollouts=rollouts,
)
