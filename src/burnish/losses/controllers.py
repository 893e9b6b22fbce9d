"""Small states that PPO carries from rollout to rollout; each is a dict of numbers in a checkpoint."""

from __future__ import annotations

import math

from torch import Tensor


class AdaptiveKL:
    """The coefficient of the KL penalty, moved towards a target KL by a proportional controller.

    beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), n completions since the last update.

    Args:
        value: the first coefficient.
        target: `ppo_target`, nats a completion; None keeps the coefficient as it is.
        horizon: completions over which a lasting error of a fifth changes the coefficient by about a fifth.
    Source: Ziegler et al., arXiv:1909.08593, section 2.2.
    """

    def __init__(self, value: float = 0.2, target: float | None = 6.0, horizon: int = 10_000) -> None:
        self.value, self.target, self.horizon = value, target, horizon

    def update(self, kl: float, completions: int) -> None:
        """Take in the mean KL of a rollout (nats a completion); one that is not a number changes nothing."""
        if self.target is None or math.isnan(kl):
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * completions / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = float(state["value"])


class ScoreNorm:
    """Running mean and standard deviation of scores, to bring those of any reward model to mean 0 and deviation 1.

    Scores that are no finite numbers are not counted, and stay as they are.

    Source: Chan, Golub and LeVeque (1979), updating formula 1.4, as in `ppo_score_norm` of LLaMA-Factory (TRL 0.9).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: sum of squared deviations from the mean

    @property
    def std(self) -> float:
        """With Bessel's correction; 1 before there are two scores, or while all are equal."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 and self.squares > 0 else 1.0

    def update(self, scores: Tensor) -> None:
        """Take in the scores [B] of a rollout, of all ranks."""
        scores = scores.detach().double()
        scores = scores[scores.isfinite()]
        if not scores.numel():
            return
        count, mean = scores.numel(), scores.mean().item()
        shift, total = mean - self.mean, self.count + count
        self.squares += (scores - mean).square().sum().item() + shift * shift * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    def normalised(self, scores: Tensor) -> Tensor:
        """(scores - mean) / std, [B] float32."""
        return (scores.float() - self.mean) / (self.std + 1e-8)

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = int(state["count"]), float(state["mean"]), float(state["squares"])
