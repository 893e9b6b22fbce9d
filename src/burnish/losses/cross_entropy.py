"""Cross-entropy over chosen tokens, the plain reference that the fast path in `kernels/` is held against."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.errors import ShapeError

Figures = Mapping[str, tuple[Tensor, Tensor]]
"""Numbers to watch beside the loss: name → (sum, count), detached scalars. Their quotient is what is logged."""


class Ranked(NamedTuple):
    """What single samples are worth to the model, and which are the better ones: `values` [S] float32, detached,
    `better` [S] bool. How well the values tell the two kinds apart is known only when all samples are together."""

    values: Tensor
    better: Tensor


class LossSum(NamedTuple):
    """A loss before division: `total` in nats (scalar float32), `count` the summed weights (scalar float32).

    `ranked`: of samples that come without a partner to be compared with; None in all other losses.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which nobody needs
    figures: Figures = MappingProxyType({})
    ranked: Ranked | None = None


class TokenLosses(NamedTuple):
    """`total` and `count` as in LossSum, and of each token, detached: `nats` [N] float32, `hits` [N] bool or None.

    `nats` is -log p of the target whatever the smoothing and the weights; `hits`, where it was asked for, says whether
    the target was the likeliest token.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]
    nats: Tensor
    hits: Tensor | None


def token_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, *, smoothing: float = 0.0, want_hits: bool = False
) -> TokenLosses:
    """Sum the negative log-probability of each target token.

    The inputs are already aligned: row i of `logits` predicts `targets[i]`. The shift by one position happens
    in `burnish.batch.collate` and nowhere else.

    Args:
        logits: [N, V], any float dtype; the softmax runs in float32.
        targets: [N] int64 token ids.
        weights: [N] float, the loss weight of each token; None weighs all by 1.
        smoothing: share of the target that is spread evenly over the vocabulary, 0 to 1.
        want_hits: also tell which targets are the likeliest tokens.
    Returns:
        total: scalar float32, sum of weight × nats, >= 0.  count: scalar float32, sum of the weights.
    Raises:
        ShapeError: targets or weights is not [N].
    Source: maximum likelihood of a categorical, -log softmax(z)_y; Goodfellow et al., Deep Learning, eq. 6.13.
        Smoothing: Szegedy et al., arXiv:1512.00567, section 7: (1 - e) nll(y) + e mean_v nll(v).
    """
    if targets.shape != logits.shape[:1] or (weights is not None and weights.shape != targets.shape):
        raise ShapeError(f"targets {tuple(targets.shape)} do not match logits {tuple(logits.shape)}")
    logits = logits.float()
    nats = F.cross_entropy(logits, targets, reduction="none")  # [N]
    hits = logits.argmax(-1) == targets if want_hits else None
    smoothed = nats
    if smoothing:
        smoothed = (1 - smoothing) * nats - smoothing * logits.log_softmax(-1).mean(-1)
    if weights is None:
        count = torch.tensor(float(len(targets)), device=logits.device)
        return TokenLosses(smoothed.sum(), count, nats.detach(), hits)
    return TokenLosses((smoothed * weights).sum(), weights.float().sum(), nats.detach(), hits)
