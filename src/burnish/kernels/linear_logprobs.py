"""Output head and log-probabilities of chosen tokens in one, in chunks: never positions × vocabulary at once.

Unlike a summed loss, each log-probability may meet its own factor on the way back. So the forward pass keeps the
gradient of every row as if its factor were 1, and the backward pass multiplies. The head's gradient mixes all rows; it
is computed in the backward pass, from logits made anew. `burnish.losses.logprobs.token_logprobs` of `hidden @ weight.T`
is the reference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from burnish.kernels.linear_cross_entropy import head_rows, room_for_logits, rows_at_once


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, want_hidden: bool, want_weight: bool
    ) -> Tensor:
        matrix = weight.to(hidden.dtype)  # [V, E]; the same tensor unless autocast is on
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if want_hidden else None  # [N, E], d logprobs[i] / d hidden[i]
        minus_one = -torch.ones_like(logprobs)  # a log-probability is cross-entropy the other way
        room = room_for_logits(hidden, matrix, chunk)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            found = head_rows(hidden[rows], matrix, room, targets[rows], minus_one[rows], back=want_hidden)
            logprobs[rows] = found.logprobs
            if slopes is not None and found.slope is not None:
                slopes[rows] = found.slope.to(hidden.dtype) @ matrix
        ctx.save_for_backward(targets, *([slopes] if want_hidden else []), *([hidden, weight] if want_weight else []))
        ctx.want, ctx.chunk = (want_hidden, want_weight), chunk
        return logprobs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        factors = grad_outputs[0]  # [N]
        targets, *saved = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if ctx.want[0]:
            slopes = saved.pop(0)
            grad_hidden = (slopes * factors[:, None]).to(slopes.dtype)
        if ctx.want[1]:
            hidden, weight = saved
            grad_weight = _head_gradient(hidden, weight, targets, factors, ctx.chunk)
        return grad_hidden, grad_weight, None, None, None, None


def _head_gradient(hidden: Tensor, weight: Tensor, targets: Tensor, factors: Tensor, chunk: int) -> Tensor:
    matrix = weight.to(hidden.dtype)
    gradient = torch.zeros_like(weight, dtype=torch.float32)
    room = room_for_logits(hidden, matrix, chunk)
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        found = head_rows(hidden[rows], matrix, room, targets[rows], -factors[rows], back=True)
        assert found.slope is not None
        gradient += (found.slope.to(hidden.dtype).T @ hidden[rows]).float()
    return gradient.to(weight.dtype)


def linear_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Log-probability of each target under `softmax(hidden @ weight.T)`, differentiable.

    Args:
        hidden: [N, E], the last hidden states where predictions are made, any float dtype.
        weight: [V, E], the output head; its gradient is computed only where it is asked for.
        targets: [N] int64.
        chunk: positions at a time; None keeps about 16 M logits in memory.
    Returns:
        [N] float32, nats, <= 0.
    Source: log pi(y_t | x, y_<t) = z_y - logsumexp(z); its gradient by z is one-hot(y) - softmax(z).
    """
    chunk = chunk or rows_at_once(weight)
    grads = torch.is_grad_enabled()
    wants = grads and hidden.requires_grad, grads and weight.requires_grad
    return _LinearLogprobs.apply(hidden, weight, targets, chunk, *wants)
