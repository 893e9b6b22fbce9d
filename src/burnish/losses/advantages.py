"""From rewards to advantages: generalised advantage estimation, groups, leave-one-out, whitening."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import Figures
from burnish.losses.figures import mean_figure
from burnish.losses.logprobs import sum_by

SCALES = ("group", "batch", "none")
"""By what a group's advantages are divided: its own standard deviation, that of the batch, or nothing (Dr. GRPO)."""


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the unmasked values to unit variance (with Bessel's correction) and, with `shift_mean`, to mean 0.

    Args:
        values: any shape, float.  mask: bool of that shape; masked values neither count nor are changed by what they
        hold: they come back as 0.
    Returns:
        float32. Fewer than two values have no variance: they are only shifted, or left alone.
    Source: Huang et al., arXiv:2403.17031, whitening of rewards and advantages.
    """
    chosen = values.float()[mask]
    if chosen.numel() > 1:
        mean = chosen.mean()
        white = (chosen - mean) * torch.rsqrt(chosen.var() + 1e-8)
        chosen = white if shift_mean else white + mean
    elif shift_mean:
        chosen = chosen - chosen.mean() if chosen.numel() else chosen
    return torch.zeros_like(values, dtype=torch.float32).masked_scatter(mask, chosen)


class GAE(NamedTuple):
    """`advantages` and `returns` (targets of the value head), [B, T] float32, 0 at masked positions."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> GAE:
    """Generalised advantage estimation over each row; the row ends after its last unmasked position, with value 0.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  return_t = A_t + V_t.
    Masked positions (padding on either side, the text of a tool in mid-row) are skipped as if they were not there.

    Args:
        rewards, values: [B, T] float; the maths runs in float32 and keeps no gradient.
        mask: [B, T] bool, the tokens that the policy chose.
        gamma: discount.  lam: lambda, 1 is Monte Carlo, 0 one-step.
    Raises:
        ShapeError: the three differ in shape.
    Source: Schulman et al., arXiv:1506.02438, eq. 16.
    """
    if rewards.shape != mask.shape or values.shape != mask.shape or mask.dim() != 2:
        raise ShapeError("rewards, values and mask must all be [B, T]")
    rewards, values = rewards.detach().float(), values.detach().float()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = values.new_zeros(len(values))  # [B]
    for step in range(values.shape[1] - 1, -1, -1):
        here = mask[:, step]
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        next_advantage = torch.where(here, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, values[:, step], next_value)
        advantages[:, step] = torch.where(here, next_advantage, 0.0)
    return GAE(advantages, torch.where(mask, advantages + values, 0.0))


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, *, kl_coef: float
) -> tuple[Tensor, Tensor]:
    """PPO's reward a token: -kl_coef (log pi - log pi_ref), plus the score of the completion at its last token.

    Args:
        scores: [B] float, one a completion.
        logprobs, ref_logprobs: [B, T] float, of the sampled tokens.  mask: [B, T] bool.
        kl_coef: beta, see `AdaptiveKL`.
    Returns:
        rewards: [B, T] float32, 0 where masked.  kl: [B] float32, the summed log-ratio of each completion, nats.
        A row without tokens has nowhere to put its score.
    Source: Ziegler et al., arXiv:1909.08593, eq. 2.
    """
    if logprobs.shape != mask.shape or ref_logprobs.shape != mask.shape or scores.shape != mask.shape[:1]:
        raise ShapeError("log-probabilities and mask must be [B, T], scores [B]")
    log_ratio = torch.where(mask, logprobs.detach().float() - ref_logprobs.detach().float(), 0.0)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)  # one True in each row that has a token
    rewards = -kl_coef * log_ratio + torch.where(last, scores.detach().float()[:, None], 0.0)
    return rewards, log_ratio.sum(1)


def combine_rewards(rewards: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over reward functions; functions that gave no number are left out.

    Args:
        rewards: [B, F] float, NaN (or infinite) where a function has no reward for a sample.  weights: [F] float.
    Returns:
        [B] float32; NaN for a sample that no function scored.
    """
    scored = rewards.isfinite()
    total = torch.where(scored, rewards.float() * weights.float(), 0.0).sum(1)
    return torch.where(scored.any(1), total, torch.nan)


class GroupAdvantages(NamedTuple):
    """`advantages`: [B] float32, 0 for an unscored sample.  `scored`: [B] bool; the tokens of the others belong masked,
    so that they leave the denominator too.  `figures`: reward, reward_std, zero_variance_groups, unscored."""

    advantages: Tensor
    scored: Tensor
    figures: Figures


class _Groups(NamedTuple):
    """Samples against their groups, all [B]. `deviation` is 0 where unscored, or where all rewards of the group are
    equal; `size` counts the group's scored samples."""

    scored: Tensor
    deviation: Tensor
    size: Tensor
    std: Tensor
    figures: Figures


def group_advantages(
    rewards: Tensor, groups: Tensor, n_groups: int, *, scale: str = "group", eps: float = 1e-4
) -> GroupAdvantages:
    """GRPO: (r - mean of its group) / (std + eps); Dr. GRPO with scale "none": r - mean of its group.

    Args:
        rewards: [B] float; NaN or infinite: unscored, outside every mean and deviation.
        groups: [B] int64 in 0..n_groups-1, the prompt that each completion answers; groups may differ in size.
        scale: one of SCALES; deviations carry Bessel's correction, and are 0 for fewer than two samples.
        eps: added to the deviation.
    Returns:
        advantages exactly 0 in a group whose rewards are all equal or that has one scored sample.
    Source: Shao et al., arXiv:2402.03300, section 4.1.2; "none": Liu et al., arXiv:2503.20783, section 3.2.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
    found = _group(rewards, groups, n_groups)
    advantages = found.deviation
    if scale == "group":
        advantages = advantages / (found.std + eps)
    elif scale == "batch":
        scored = rewards.float()[found.scored]
        advantages = advantages / ((scored.std() if scored.numel() > 1 else 0.0) + eps)
    return GroupAdvantages(advantages, found.scored, found.figures)


def rloo_advantages(
    rewards: Tensor, groups: Tensor, n_groups: int, *, normalise: bool = False, eps: float = 1e-4
) -> GroupAdvantages:
    """Leave-one-out: r minus the mean reward of the *other* scored completions of its prompt.

    With k scored completions that is k / (k - 1) (r - mean); with one there is no baseline and the advantage is 0.

    Args:
        rewards, groups, n_groups: as in `group_advantages`.
        normalise: then scale the batch's advantages to mean 0 and deviation 1.
    Source: Ahmadian et al., arXiv:2402.14740, the RLOO_k estimator.
    """
    found = _group(rewards, groups, n_groups)
    advantages = found.deviation * (found.size / (found.size - 1).clamp(min=1))
    usable = found.scored & (found.size > 1)
    if normalise and int(usable.sum()) > 1:
        chosen = advantages[usable]
        advantages = (advantages - chosen.mean()) / (chosen.std() + eps)
    return GroupAdvantages(torch.where(usable, advantages, 0.0), found.scored, found.figures)


def _group(rewards: Tensor, groups: Tensor, n_groups: int) -> _Groups:
    if rewards.dim() != 1 or groups.shape != rewards.shape:
        raise ShapeError(f"groups {tuple(groups.shape)} do not match rewards {tuple(rewards.shape)}")
    scored = rewards.isfinite()
    values = torch.where(scored, rewards.detach().float(), 0.0)
    size = sum_by(scored.float(), groups, n_groups)  # [G]
    mean = sum_by(values, groups, n_groups) / size.clamp(min=1)
    deviation = torch.where(scored, values - mean[groups], 0.0)  # [B]
    std = (sum_by(deviation.square(), groups, n_groups) / (size - 1).clamp(min=1)).sqrt()
    # Equal rewards are found by comparing, not by a deviation of 0: the float32 mean of three 12345.678 is 0.001 off.
    low, high = (torch.where(scored, values, bound) for bound in (torch.inf, -torch.inf))
    low = low.new_full((n_groups,), torch.inf).scatter_reduce(0, groups, low, "amin")
    high = high.new_full((n_groups,), -torch.inf).scatter_reduce(0, groups, high, "amax")
    alike = high <= low  # [G], a group without a scored sample among them
    figures = {
        "reward": mean_figure(values, scored),
        "reward_std": mean_figure(torch.where(alike, 0.0, std), size > 0),
        "zero_variance_groups": mean_figure(alike, size > 0),
        "unscored": mean_figure(~scored),
    }
    deviation = torch.where(alike[groups], 0.0, deviation)
    return _Groups(scored, deviation, size[groups], std[groups], figures)
