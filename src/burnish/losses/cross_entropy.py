"""Cross-entropy over chosen tokens, the plain reference that the fast path in `kernels/` is held against."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.errors import ShapeError


class LossSum(NamedTuple):
    """A loss before division: `total` in nats (scalar float32), `count` the summed weights (scalar float32)."""

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which nobody needs


def token_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> LossSum:
    """Sum the negative log-probability of each target token.

    The inputs are already aligned: row i of `logits` predicts `targets[i]`. The shift by one position happens
    in `burnish.batch.collate` and nowhere else.

    Args:
        logits: [N, V], any float dtype; the softmax runs in float32.
        targets: [N] int64 token ids.
        weights: [N] float, the loss weight of each token; None weighs all by 1.
    Returns:
        total: scalar float32, sum of weight × nats, >= 0.  count: scalar float32, sum of the weights.
    Raises:
        ShapeError: targets or weights is not [N].
    Source: maximum likelihood of a categorical, -log softmax(z)_y; Goodfellow et al., Deep Learning, eq. 6.13.
    """
    if targets.shape != logits.shape[:1] or (weights is not None and weights.shape != targets.shape):
        raise ShapeError(f"targets {tuple(targets.shape)} do not match logits {tuple(logits.shape)}")
    nats = F.cross_entropy(logits.float(), targets, reduction="none")  # [N]
    if weights is None:
        return LossSum(nats.sum(), torch.tensor(float(len(targets)), device=logits.device))
    return LossSum((nats * weights).sum(), weights.float().sum())
