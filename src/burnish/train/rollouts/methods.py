"""From rewards to what each stage learns from them: advantages, and for ppo the targets of its value head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from burnish.losses.advantages import gae, group_advantages, rloo_advantages, token_rewards, whiten
from burnish.losses.controllers import AdaptiveKL, ScoreNorm
from burnish.losses.cross_entropy import Figures
from burnish.losses.figures import mean_figure
from burnish.losses.logprobs import sum_by


@dataclass(frozen=True)
class Judged:
    """A rollout of R answers with M tokens before it is learnt from.

    `rewards` [R] float32, NaN where there is none. `groups` [R] int64: the prompt of each. `lengths` [R] int64.
    `used` [R] bool: answers that are learnt from. The others are [M] float32, nats, or None where the method asks
    for none.
    """

    rewards: Tensor
    groups: Tensor
    lengths: Tensor
    used: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    old_values: Tensor | None = None

    @property
    def sequences(self) -> Tensor:
        """[M] int64: the answer of each token."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @property
    def kl(self) -> Tensor | None:
        """[R] float32, nats: log pi - log pi_ref of each answer, summed; None without a reference."""
        if self.old_logprobs is None or self.ref_logprobs is None:
            return None
        return sum_by(self.old_logprobs - self.ref_logprobs, self.sequences, len(self.lengths))


class Learnt(NamedTuple):
    """`advantages`: [R] float32, or [M]; `returns`: [M] or None; `figures`: (sum, count) by name."""

    advantages: Tensor
    returns: Tensor | None
    figures: Figures


class Method(Protocol):
    """What a stage makes of rewards.

    Attributes:
        beta: weight of the KL; where it is 0 no reference is asked.
        compares: whether answers to one prompt are compared with each other.
        asks_old: whether advantages need the log-probabilities of the policy that sampled.
        asks_values: whether they need a value head.
    """

    beta: float
    compares: bool
    asks_old: bool
    asks_values: bool

    def learn(self, judged: Judged) -> Learnt:
        """Advantages of a rollout, the same on every rank."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Numbers that are carried from rollout to rollout."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        ...


class _Stateless:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


class Groups(_Stateless):
    """GRPO: each reward against those of its group. `scale` as in `group_advantages`."""

    compares, asks_old, asks_values = True, False, False

    def __init__(self, *, beta: float, scale: str) -> None:
        self.beta, self.scale = beta, scale

    def learn(self, judged: Judged) -> Learnt:
        found = group_advantages(judged.rewards, judged.groups, _count(judged.groups), scale=self.scale)
        return Learnt(found.advantages, None, found.figures)


class LeaveOneOut(_Stateless):
    """RLOO: each reward, less beta times the KL of its answer, against the mean of its group's others."""

    compares, asks_values = True, False

    def __init__(self, *, beta: float, normalise: bool) -> None:
        self.beta, self.normalise, self.asks_old = beta, normalise, beta > 0

    def learn(self, judged: Judged) -> Learnt:
        plain = rloo_advantages(judged.rewards, judged.groups, _count(judged.groups))
        figures = dict(plain.figures)
        rewards, kl = judged.rewards, judged.kl
        if kl is not None:
            rewards = rewards - self.beta * kl
            figures["kl"] = mean_figure(kl, judged.used)
        found = rloo_advantages(rewards, judged.groups, _count(judged.groups), normalise=self.normalise)
        return Learnt(found.advantages, None, figures)


class ActorCritic:
    """PPO: rewards of tokens, the KL among them, against what the value head expected.

    Args:
        beta, target: of `AdaptiveKL`.
        score_norm: scale scores by their running mean and deviation.
        whiten_rewards: scale rewards of tokens to unit variance.
        gamma, lam: of `gae`.
    """

    compares, asks_old, asks_values = False, True, True

    def __init__(
        self, *, beta: float, target: float | None, score_norm: bool, whiten_rewards: bool, gamma: float, lam: float
    ) -> None:
        self.beta, self.whiten_rewards, self.gamma, self.lam = beta, whiten_rewards, gamma, lam
        self.controller = AdaptiveKL(beta, target if beta else None)
        self.norm = ScoreNorm() if score_norm else None

    def learn(self, judged: Judged) -> Learnt:
        assert judged.old_logprobs is not None
        assert judged.old_values is not None
        scored = judged.rewards.isfinite()
        figures = {"reward": mean_figure(judged.rewards, scored), "unscored": mean_figure(~scored)}
        if int(scored.sum()) > 1:
            figures["reward_std"] = mean_figure(judged.rewards[scored].std()[None])
        scores = judged.rewards
        if self.norm is not None:
            self.norm.update(scores)
            scores = self.norm.normalised(scores)
        there = torch.arange(int(judged.lengths.max()))[None] < judged.lengths[:, None]  # [R, T]
        mask = there & judged.used[:, None]
        old = _rows(judged.old_logprobs, there)
        ref = old if judged.ref_logprobs is None else _rows(judged.ref_logprobs, there)
        values = _rows(judged.old_values, there)
        rewards, kl = token_rewards(scores.nan_to_num(), old, ref, mask, kl_coef=self.controller.value)
        if self.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        found = gae(rewards, values, mask, gamma=self.gamma, lam=self.lam)
        advantages = whiten(found.advantages, mask)
        if judged.ref_logprobs is not None:
            figures["kl"] = mean_figure(kl, judged.used)
            figures["kl_coef"] = mean_figure(torch.tensor([self.controller.value]))
            if bool(judged.used.any()):
                self.controller.update(float(kl[judged.used].mean()), int(judged.used.sum()))
        return Learnt(advantages[there], found.returns[there], figures)

    def state_dict(self) -> dict[str, Any]:
        return {"kl": self.controller.state_dict(), **({"scores": self.norm.state_dict()} if self.norm else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.controller.load_state_dict(state["kl"])
        if self.norm is not None and "scores" in state:
            self.norm.load_state_dict(state["scores"])


def _count(groups: Tensor) -> int:
    return int(groups.max()) + 1


def _rows(flat: Tensor, there: Tensor) -> Tensor:
    """[M] values as [R, T], 0 where an answer has ended."""
    return torch.zeros(there.shape, dtype=torch.float32).masked_scatter(there, flat.float())
