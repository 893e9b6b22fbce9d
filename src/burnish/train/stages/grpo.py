"""Group relative policy optimization: several answers to a prompt, each compared with the others."""

from __future__ import annotations

from burnish.batch.collate import collate
from burnish.batch.prompts import prompt_chunk
from burnish.config import Settings
from burnish.model.load import Loaded
from burnish.train.policy import GroupLoss
from burnish.train.reference import Reference, find_reference
from burnish.train.rollouts.build import build_rollouts
from burnish.train.rollouts.methods import Groups
from burnish.train.rollouts.phase import Rollouts
from burnish.train.stages import Parts, RolloutParts, Stage
from burnish.train.stages.dpo import extend


def reference(settings: Settings, loaded: Loaded) -> Reference | None:
    """What the policy is held near to, where it is held at all."""
    return find_reference(settings, loaded) if settings.rollout.beta else None


def module(parts: Parts) -> GroupLoss:
    """The model with its loss over answers."""
    chosen, longest = parts.settings.rollout, parts.settings.generating.max_new_tokens
    return GroupLoss(
        parts.model,
        packed=parts.packed,
        temperature=parts.settings.generating.temperature,
        loss_type=chosen.loss_type,
        importance=chosen.importance_sampling_level,
        clip_low=chosen.epsilon,
        clip_high=chosen.epsilon_high or chosen.epsilon,
        delta=chosen.delta,
        kl_coef=chosen.beta or 0.0,
        max_completion_length=longest,
    )


def rollouts(parts: RolloutParts) -> Rollouts:
    """Groups of answers, and rewards against those of the group."""
    chosen = parts.settings.rollout
    units = {"grpo": 1, "dr_grpo": parts.settings.generating.max_new_tokens}.get(chosen.loss_type)
    method = Groups(beta=chosen.beta or 0.0, scale=chosen.scale_rewards)
    return build_rollouts(parts, method, units=units)


STAGE = Stage(
    "grpo",
    prompt_chunk,
    collate,
    module,
    extend=extend,
    reference=reference,
    rollouts=rollouts,
)
