"""What judges sampled answers: reward functions, a reward model, or both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from burnish import log
from burnish.config import Settings
from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError
from burnish.generate.reward import RewardModel, load_reward_model
from burnish.rewards import RewardSample, Scores, build_rewards
from burnish.template import ChatTemplate


class Judge(Protocol):
    """Something that scores sampled answers."""

    @property
    def names(self) -> tuple[str, ...]:
        """What metrics call its parts."""
        ...

    def score(self, samples: Sequence[RewardSample]) -> Scores:
        """The rewards of each sample, by function and in all."""
        ...

    def check_columns(self, present: Collection[str]) -> None:
        """Refuse data without what it needs; `present` are the keys of all references together."""
        ...

    def close(self) -> None:
        """End what it keeps running."""
        ...


class ByModel:
    """A reward model's score, and what functions say besides: `total` is their sum.

    Args:
        functions: None for the model alone.
    """

    def __init__(self, model: RewardModel, functions: Judge | None, batch_size: int) -> None:
        self.model, self.functions, self.batch_size = model, functions, batch_size

    @property
    def names(self) -> tuple[str, ...]:
        """The model, then the functions."""
        return ("reward_model", *(self.functions.names if self.functions else ()))

    def check_columns(self, present: Collection[str]) -> None:
        """As the functions do."""
        if self.functions is not None:
            self.functions.check_columns(present)

    def close(self) -> None:
        """As the functions do."""
        if self.functions is not None:
            self.functions.close()

    def score(self, samples: Sequence[RewardSample]) -> Scores:
        """As `Rewards.score`; an answer is scored as its conversation reads in the reward model's template."""
        turns = [(*sample.prompt.turns, Turn("assistant", sample.completion)) for sample in samples]
        whole = [replace(sample.prompt, turns=each) for sample, each in zip(samples, turns, strict=True)]
        scores = self.model.score(whole, batch_size=self.batch_size)
        own: list[dict[str, float | None]] = [{"reward_model": score} for score in scores]
        if self.functions is None:
            return Scores(own, [*scores], [])
        more = self.functions.score(samples)
        totals: list[float | None] = [one + (two or 0.0) for one, two in zip(scores, more.totals, strict=True)]
        return Scores([{**one, **two} for one, two in zip(own, more.values, strict=True)], totals, more.notes)


def find_judge(settings: Settings, template: ChatTemplate) -> Judge:
    """What the settings want answers judged by; says which.

    Raises:
        BurnishError: there is nothing, or what is named is no reward.
    """
    rollout = settings.rollout
    funcs: list[str | Mapping[str, Any]] = list(rollout.reward_funcs)
    weights, timeout_s = rollout.reward_weights or None, rollout.reward_timeout
    named = rollout.reward_model
    if named and rollout.reward_model_type == "api":
        funcs.append({"name": "http_scorer", "url": named})
        weights = None if weights is None else (*weights, 1.0)

    def text(prompt: Conversation, completion: str) -> str:
        return template.text(replace(prompt, turns=(*prompt.turns, Turn("assistant", completion))), generate=False)

    functions = build_rewards(funcs, weights, timeout_s, render=text) if funcs else None
    if not named or rollout.reward_model_type == "api":
        assert functions is not None
        log.say(f"rewards: {', '.join(functions.names)}")
        return functions
    try:
        model = load_reward_model(
            named,
            adapters=rollout.reward_model_adapters,
            use_cpu=settings.training.use_cpu,
            trust_remote_code=settings.model.trust_remote_code,
            say=log.say,
        )
    except ModelError as error:
        raise ModelError(error.what, at=f"reward_model: {named}", fix=error.fix) from error
    size = sum(p.numel() * p.element_size() for p in model.model.parameters()) / 1e6
    log.say(
        f"rewards: the reward model {named} ({size:.0f} MB)" + (f", {', '.join(functions.names)}" if functions else "")
    )
    return ByModel(model, functions, settings.training.per_device_eval_batch_size)
