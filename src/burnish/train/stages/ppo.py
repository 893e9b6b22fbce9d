"""Proximal policy optimization: answers judged once, a value head that learns what to expect of each token."""

from __future__ import annotations

from burnish.batch.collate import collate
from burnish.batch.prompts import prompt_chunk
from burnish.config import Settings
from burnish.errors import ModelError
from burnish.model.adapter import only_a_head
from burnish.model.load import Loaded
from burnish.model.reward import attach_value_head
from burnish.model.save import without_adapter
from burnish.train.policy import ActorCriticLoss
from burnish.train.rollouts.build import build_rollouts
from burnish.train.rollouts.methods import ActorCritic
from burnish.train.rollouts.phase import Rollouts
from burnish.train.stages import Parts, RolloutParts, Stage
from burnish.train.stages.dpo import extend as drop_nothing
from burnish.train.stages.grpo import reference


def extend(settings: Settings, loaded: Loaded) -> None:
    """Put the value head on, which expects nothing at the start.

    Raises:
        ModelError: the model does more than its head to what the value head reads.
    """
    drop_nothing(settings, loaded)
    inner = without_adapter(loaded.model)
    if not only_a_head(inner):
        raise ModelError(
            f"ppo cannot train {inner.config.model_type}, which changes its logits after the head",
            at="stage",
            fix="use stage: grpo or rloo, which need no value head",
        )
    attach_value_head(loaded.model, seed=settings.training.seed, critic=True)


def module(parts: Parts) -> ActorCriticLoss:
    """The model with the losses of its answers and of its value head."""
    chosen = parts.settings.rollout
    return ActorCriticLoss(
        parts.model,
        packed=parts.packed,
        temperature=parts.settings.generating.temperature,
        clip_range=chosen.epsilon,
        value_clip_range=chosen.cliprange_value,
        value_weight=chosen.vf_coef,
    )


def rollouts(parts: RolloutParts) -> Rollouts:
    """Answers with the advantage of each token over what the value head expected."""
    chosen = parts.settings.rollout
    method = ActorCritic(
        beta=chosen.beta or 0.0,
        target=chosen.ppo_target,
        score_norm=chosen.ppo_score_norm,
        whiten_rewards=chosen.ppo_whiten_rewards,
        gamma=chosen.gamma,
        lam=chosen.lam,
    )
    return build_rollouts(parts, method, units=None)


STAGE = Stage(
    "ppo",
    prompt_chunk,
    collate,
    module,
    extend=extend,
    reference=reference,
    rollouts=rollouts,
)
