"""A loss together with the figures that are logged beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.losses.cross_entropy import LossSum

Figure = tuple[Tensor, Tensor]
"""(sum, count), two detached float32 scalars: summed over micro-batches and ranks, then divided once for a log."""

Figures = dict[str, Figure]


class ScoredLoss(NamedTuple):
    """A loss before division, and its figures by name."""

    loss: LossSum
    figures: Figures


def mean_figure(values: Tensor, chosen: Tensor | None = None) -> Figure:
    """The (sum, count) whose quotient is the mean of `values`.

    Args:
        values: any shape and dtype, summed in float32.
        chosen: bool, the shape of `values`: which of them count. None: all.
    """
    values = values.detach().float()
    if chosen is not None:
        values = values[chosen]
    return values.sum(), torch.tensor(float(values.numel()), device=values.device)


def summed(losses: Tensor) -> LossSum:
    """One loss an element, each with weight 1: total = their sum, count = their number."""
    return LossSum(losses.sum(), torch.tensor(float(losses.numel()), device=losses.device))
