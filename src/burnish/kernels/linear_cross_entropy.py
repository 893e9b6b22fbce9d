"""Output head and cross-entropy in one, in chunks of positions: never positions × vocabulary at once.

The gradient of each chunk is computed while its logits are at hand, so that the backward pass is a
multiplication. `burnish.losses.token_cross_entropy(hidden @ weight.T, …)` is the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from burnish.losses import TokenLosses

# Logits that exist at one time: 16 M float32 values are 64 MB.
_LOGITS_AT_ONCE = 16 * 1024 * 1024


def rows_at_once(weight: Tensor) -> int:
    """Positions whose logits may exist at one time under a head of [V, E]."""
    return max(16, _LOGITS_AT_ONCE // weight.shape[0])


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        chunk: int,
        smoothing: float,
        want_hits: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        want_hidden, want_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        matrix = weight.to(hidden.dtype)  # [V, E]; the same tensor unless autocast is on
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        nats = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        hits = torch.empty(hidden.shape[0], dtype=torch.bool, device=hidden.device) if want_hits else None
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = (hidden[rows] @ matrix.T).float()  # [n, V]
            logsumexp = logits.logsumexp(-1)  # [n]
            nats[rows] = logsumexp - logits.gather(1, targets[rows, None]).squeeze(1)
            if hits is not None:
                hits[rows] = logits.argmax(-1) == targets[rows]
            loss = nats[rows]
            if smoothing:
                loss = (1 - smoothing) * loss + smoothing * (logsumexp - logits.mean(-1))
            total += (loss * weights[rows]).sum()
            if not (want_hidden or want_weight):
                continue
            slope = cross_entropy_slope(logits, logsumexp, targets[rows], smoothing)
            slope = slope.mul_(weights[rows, None]).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = slope @ matrix
            if grad_weight is not None:
                grad_weight += (slope.T @ hidden[rows]).float()
        ctx.save_for_backward(*[g for g in (grad_hidden, grad_weight) if g is not None])
        ctx.has = (want_hidden, want_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(*[each for each in (nats, hits) if each is not None])
        return total, nats, hits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        saved = list(ctx.saved_tensors)
        grad_hidden = saved.pop(0) * scale if ctx.has[0] else None
        grad_weight = (saved.pop(0) * scale).to(ctx.weight_dtype) if ctx.has[1] else None
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(ctx.saved_tensors[0].dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def cross_entropy_slope(logits: Tensor, logsumexp: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """d loss / d logits = softmax - (1 - e) one-hot - e / V, [n, V], written over the logits."""
    slope = logits.sub_(logsumexp[:, None]).exp_()
    if smoothing:
        slope -= smoothing / slope.shape[1]
    return slope.scatter_add_(1, targets[:, None], torch.full_like(logsumexp, smoothing - 1.0)[:, None])


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    chunk: int | None = None,
    *,
    smoothing: float = 0.0,
    want_hits: bool = False,
) -> TokenLosses:
    """Sum the negative log-probability of each target under `softmax(hidden @ weight.T)`.

    Args:
        hidden: [N, E], the last hidden states at the supervised positions, any float dtype.
        weight: [V, E], the output head; its gradient is computed only where it is asked for.
        targets: [N] int64.  weights: [N] float32 loss weights.
        chunk: positions at a time; None keeps about 16 M logits in memory.
        smoothing, want_hits: as in `token_cross_entropy`.
    Returns:
        total: scalar float32, weighted nats.  count: scalar float32, sum of the weights.  nats, hits: as there.
    """
    chunk = chunk or rows_at_once(weight)
    total, nats, hits = _LinearCrossEntropy.apply(hidden, weight, targets, weights, chunk, smoothing, want_hits)
    return TokenLosses(total, weights.float().sum(), nats, hits)
