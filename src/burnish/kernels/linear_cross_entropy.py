"""Output head and cross-entropy in one, in chunks of positions: never positions × vocabulary at once.

The gradient of each chunk is computed while its logits are at hand, so that the backward pass is a
multiplication. On a CPU a kernel makes both from the logits, where they lie (`elementwise`).
`burnish.losses.token_cross_entropy(hidden @ weight.T, …)` is the reference.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.kernels import elementwise
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
        room = room_for_logits(hidden, matrix, chunk)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            given = hidden[rows], matrix, room, targets[rows], weights[rows], smoothing
            found = head_rows(*given, back=want_hidden or want_weight, want_hits=want_hits)
            nats[rows] = -found.logprobs
            total += (found.losses * weights[rows]).sum()
            if hits is not None and found.hits is not None:
                hits[rows] = found.hits
            if found.slope is None:
                continue
            slope = found.slope.to(hidden.dtype)
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


class _Room(threading.local):
    """Memory that logits were written to last."""

    kept = torch.empty(0, dtype=torch.uint8)


_room = _Room()


def room_for_logits(hidden: Tensor, matrix: Tensor, chunk: int) -> Tensor | None:
    """Memory for the logits of one chunk after the other, [chunk, V]; None where each chunk takes its own.

    On a CPU so large a tensor comes from the system each time, as empty pages: a product into them took 1.6 to 3 times
    as long. So it is kept for the next call, a piece for each thread.
    """
    device, dtype = hidden.device.type, hidden.dtype
    if device != "cpu" or torch.is_autocast_enabled(device):
        return None
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and elementwise.is_there()):
        return None
    shape = min(chunk, hidden.shape[0]), matrix.shape[0]
    size = shape[0] * shape[1] * dtype.itemsize
    if _room.kept.numel() < size:
        _room.kept = torch.empty(0, dtype=torch.uint8)  # not both at one time
        with torch.inference_mode(False):
            _room.kept = torch.empty(size, dtype=torch.uint8)
    return _room.kept[:size].view(dtype).view(shape)


class HeadRows(NamedTuple):
    """Of n rows: the targets' log-probabilities and losses, [n]; hits, [n]; d (factors · losses) / d logits, [n, V]."""

    logprobs: Tensor
    losses: Tensor
    hits: Tensor | None
    slope: Tensor | None


def head_rows(
    hidden: Tensor,
    matrix: Tensor,
    room: Tensor | None,
    targets: Tensor,
    factors: Tensor,
    smoothing: float = 0.0,
    *,
    back: bool,
    want_hits: bool = False,
) -> HeadRows:
    """The losses of hidden states, [n, E], under a head, [V, E].

    Args:
        room: as `room_for_logits` gave it; the slope lies there until the next call.
        targets: [n] int64.  factors: [n] float32, only for the slope.
        back: whether the slope is wanted. Its dtype is float32 or that of the hidden states.
    """
    if room is None:
        logits = (hidden @ matrix.T).float()
    else:
        logits = torch.mm(hidden, matrix.T, out=room[: hidden.shape[0]])
        if elementwise.takes(logits):
            given = logits, targets, factors
            rows = elementwise.cross_entropy(*given, smoothing=smoothing, back=back, want_hits=want_hits)
            return HeadRows(*rows, logits if back else None)
    hits = logits.argmax(-1) == targets if want_hits else None
    mean = logits.mean(-1) if smoothing else None
    softmax = softmax_over(logits, targets)
    losses = -softmax.logprobs
    if mean is not None:
        losses = (1 - smoothing) * losses + smoothing * (softmax.logsumexp - mean)
    return HeadRows(softmax.logprobs, losses, hits, softmax.slope(targets, factors, smoothing) if back else None)


class Softmax(NamedTuple):
    """exp(z - max z) of n rows, [n, V], their sums [n], and log-probabilities of the targets and log sum exp z, [n]."""

    exponentials: Tensor
    sums: Tensor
    logprobs: Tensor
    logsumexp: Tensor

    def slope(self, targets: Tensor, factors: Tensor, smoothing: float = 0.0) -> Tensor:
        """d cross-entropy / d logits times a factor for each row, [n, V], written over the exponentials.

        It is softmax - (1 - e) one-hot - e / V.
        """
        slope = self.exponentials.mul_((factors / self.sums)[:, None])
        if smoothing:
            slope -= (factors * (smoothing / slope.shape[1]))[:, None]
        return slope.scatter_add_(1, targets[:, None], (factors * (smoothing - 1.0))[:, None])


def softmax_over(logits: Tensor, targets: Tensor) -> Softmax:
    """The softmax of logits [n, V], written over them with one exp for the loss and the gradient."""
    most = logits.amax(-1)
    logits.sub_(most[:, None])
    picked = logits.gather(1, targets[:, None]).squeeze(1)
    sums = logits.exp_().sum(-1)
    logarithms = sums.log()
    return Softmax(logits, sums, picked - logarithms, most + logarithms)


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
