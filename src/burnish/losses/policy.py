"""Policy-gradient losses over sampled tokens: PPO with its value loss, GRPO and its relatives, RLOO.

Masked positions are taken out before any maths, so that what stands there (padding, -inf, NaN) reaches neither the
loss nor a gradient nor a denominator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import Figures, LossSum
from burnish.losses.figures import mean_figure, summed
from burnish.losses.logprobs import sum_by

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
IMPORTANCE_LEVELS = ("token", "sequence")
LOG_RATIO_LIMIT = 20.0
"""Log-ratios are cut here before exp (a ratio of 5e8): no policy that trains gets there, and exp stays finite."""


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(pi || pi_ref) from samples of pi, token by token: e^d - d - 1 with d = log pi_ref - log pi; >= 0.

    Any shape, float32 out. Source: Schulman, "Approximating KL divergence" (2020), k3; arXiv:2402.03300, eq. 4.
    """
    difference = (ref_logprobs.float() - logprobs.float()).clamp(max=LOG_RATIO_LIMIT)
    return difference.exp() - difference - 1


class Surrogate(NamedTuple):
    """`losses`: one an element.  `low`, `high`: bool, where the clip took the gradient away."""

    losses: Tensor
    low: Tensor
    high: Tensor


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, delta: float | None = None
) -> Surrogate:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho = e^log_ratio, element by element.

    Args:
        log_ratio: any shape, float: log pi - log pi_old.  advantages: the same shape, constants.
        clip_low, clip_high: how far the ratio may pay, below and above 1.
        delta: > 1 + clip_high: also cut the unclipped ratio here, so that a bad sample (A < 0) has a bounded pull.
    Source: Schulman et al., arXiv:1707.06347, eq. 7; clip_high apart: DAPO, arXiv:2503.14476, eq. 10; delta:
    INTELLECT-2, arXiv:2505.07291, section 4.1.
    """
    advantages = advantages.detach().float()
    ratio = log_ratio.float().clamp(max=LOG_RATIO_LIMIT).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    low, high = (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)
    if delta is not None:
        ratio = ratio.clamp(max=delta)
    return Surrogate(-torch.minimum(ratio * advantages, clipped * advantages), low, high)


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_range: float = 0.2
) -> LossSum:
    """PPO's clipped surrogate over tokens.

    Args:
        logprobs: any shape, float, of the sampled tokens under the policy that learns.
        old_logprobs: the same under the policy that sampled.  advantages: from `gae`, whitened over the rollout.
        mask: bool, the tokens that count.  All four have one shape.
    Returns:
        total over the unmasked tokens, count their number.  figures: clip_ratio/low, clip_ratio/high, approx_kl.
    Source: arXiv:1707.06347, eq. 7.
    """
    if not logprobs.shape == old_logprobs.shape == advantages.shape == mask.shape:
        raise ShapeError("log-probabilities, advantages and mask must have one shape")
    log_ratio = logprobs[mask].float() - old_logprobs[mask].detach().float()
    found = clipped_surrogate(log_ratio, advantages[mask], clip_low=clip_range, clip_high=clip_range)
    return summed(found.losses, _clip_figures(found, log_ratio))


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip_range: float = 0.2
) -> LossSum:
    """max((V - R)^2, (V_old + clip(V - V_old, -clip_range, clip_range) - R)^2) / 2 over tokens.

    Args:
        values: any shape, float, of the value head that learns; old_values: as it was at the rollout.
        returns: from `gae`.  mask: bool. All four have one shape.
    Returns:
        total over the unmasked tokens, count their number (the same as the policy loss's: add the totals).
        figures: value_clip_ratio, value_mean.
    Source: Engstrom et al., arXiv:2005.12729, section 3, value function clipping (as in OpenAI's PPO2).
    """
    if not values.shape == old_values.shape == returns.shape == mask.shape:
        raise ShapeError("values, returns and mask must have one shape")
    values, old_values, returns = (value[mask].float() for value in (values, old_values.detach(), returns.detach()))
    clipped = values.clamp(old_values - clip_range, old_values + clip_range)
    free, bound = (values - returns).square(), (clipped - returns).square()
    figures = {"value_clip_ratio": mean_figure(bound > free), "value_mean": mean_figure(values)}
    return summed(torch.maximum(free, bound) / 2, figures)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor,
    sequences: Tensor,
    *,
    mask: Tensor | None = None,
    loss_type: str = "grpo",
    importance: str = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    delta: float | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    max_completion_length: int | None = None,
) -> LossSum:
    """Clipped surrogate of group advantages plus kl_coef times the k3 KL, over the flat tokens of S completions.

    Args:
        logprobs: [N] float, sampled tokens under the policy that learns.
        old_logprobs: [N], under the policy that sampled; None: the same policy (the first pass: every ratio is 1).
        advantages: [S] float, from `group_advantages`.
        sequences: [N] int64 in 0..S-1, the completion of each token.
        mask: [N] bool, tokens that count (not: text of a tool, cut completions, unscored samples); None: all.
        loss_type: what is averaged. grpo: tokens within a completion, then completions. dapo: all tokens. bnpo: the
            same here, where only the loop divides (elsewhere it is dapo with each micro-batch divided by itself).
            dr_grpo: a completion's sum over the constant `max_completion_length`, then completions.
        importance: "token": a ratio for each token; "sequence": GSPO, the geometric mean of a completion's ratios.
        clip_low, clip_high, delta: see `clipped_surrogate`.
        ref_logprobs: [N], under the reference policy; needed where kl_coef is not 0.
    Returns:
        count is completions (grpo), tokens (bnpo, dapo) or completions x length (dr_grpo); a completion whose
        tokens are all masked is not counted. figures: clip_ratio/low, clip_ratio/high, approx_kl, kl.
    Source: GRPO arXiv:2402.03300, eq. 3; DAPO arXiv:2503.14476, eq. 8; Dr. GRPO arXiv:2503.20783, section 3.2;
    GSPO arXiv:2507.18071, eq. 5 and 7; the name bnpo is TRL's.
    """
    _check_grpo(logprobs, old_logprobs, ref_logprobs, sequences, loss_type, importance, kl_coef)
    keep = torch.ones_like(sequences, dtype=torch.bool) if mask is None else mask
    new, sequences = logprobs[keep].float(), sequences[keep]
    old = new.detach() if old_logprobs is None else old_logprobs[keep].detach().float()
    log_ratio, length = new - old, sum_by(torch.ones_like(new), sequences, len(advantages))  # [N], [S]
    if importance == "sequence":
        mean_log_ratio = sum_by(log_ratio, sequences, len(advantages)) / length.clamp(min=1)
        found = clipped_surrogate(mean_log_ratio, advantages, clip_low=clip_low, clip_high=clip_high, delta=delta)
        figures = _clip_figures(Surrogate(*(part[length > 0] for part in found)), log_ratio)
        losses = found.losses[sequences]
    else:
        found = clipped_surrogate(log_ratio, advantages[sequences], clip_low=clip_low, clip_high=clip_high, delta=delta)
        figures = _clip_figures(found, log_ratio)
        losses = found.losses
    if kl_coef and ref_logprobs is not None:
        kl = kl_k3(new, ref_logprobs[keep].detach())
        figures["kl"] = mean_figure(kl)
        losses = losses + kl_coef * kl
    return _averaged(losses, sequences, length, loss_type, max_completion_length, figures)


def rloo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    scored: Tensor | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> LossSum:
    """Clipped surrogate with one action a completion: the ratio is that of the whole completion's probability.

    Args:
        logprobs, old_logprobs: [S] float, summed over each completion's tokens, nats.
        advantages: [S], from `rloo_advantages` of rewards less kl_coef (log pi - log pi_ref).
        scored: [S] bool, completions that count; None: all.
    Returns:
        total over the completions, count their number.  figures: clip_ratio/low, clip_ratio/high, approx_kl.
    Source: Ahmadian et al., arXiv:2402.14740, the RLOO_k estimator; the clip as in TRL's RLOO.
    """
    if not logprobs.shape == old_logprobs.shape == advantages.shape:
        raise ShapeError("log-probabilities and advantages must all be [S]")
    keep = torch.ones_like(logprobs, dtype=torch.bool) if scored is None else scored
    log_ratio = logprobs[keep].float() - old_logprobs[keep].detach().float()
    found = clipped_surrogate(log_ratio, advantages[keep], clip_low=clip_low, clip_high=clip_high)
    return summed(found.losses, _clip_figures(found, log_ratio))


def _averaged(
    losses: Tensor, sequences: Tensor, length: Tensor, loss_type: str, longest: int | None, figures: Figures
) -> LossSum:
    """Token losses [N] as the total and count whose quotient, over all batches, is the mean that `loss_type` names."""
    completions = (length > 0).sum().float()
    if loss_type == "grpo":
        return LossSum((losses / length[sequences]).sum(), completions, figures)
    if loss_type == "dr_grpo":
        if longest is None:
            raise ValueError("loss_type dr_grpo needs max_completion_length")
        return LossSum(losses.sum(), completions * longest, figures)
    return summed(losses, figures)


def _clip_figures(found: Surrogate, log_ratio: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Shares of clipped elements, and KL(pi_old || pi) by k3 on the samples of pi_old."""
    return {
        "clip_ratio/low": mean_figure(found.low),
        "clip_ratio/high": mean_figure(found.high),
        "approx_kl": mean_figure(kl_k3(torch.zeros_like(log_ratio), log_ratio.detach())),
    }


def _check_grpo(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    sequences: Tensor,
    loss_type: str,
    importance: str,
    kl_coef: float,
) -> None:
    for given in (old_logprobs, ref_logprobs, sequences):
        if given is not None and given.shape != logprobs.shape:
            raise ShapeError(f"{tuple(given.shape)} does not match log-probabilities {tuple(logprobs.shape)}")
    if loss_type not in LOSS_TYPES or importance not in IMPORTANCE_LEVELS:
        raise ValueError(f"loss_type {loss_type!r} or importance {importance!r} is unknown")
    if kl_coef and ref_logprobs is None:
        raise ShapeError("kl_coef needs log-probabilities under the reference policy")
