"""From one loss or value an element to sums and counts."""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.losses.cross_entropy import Figures, LossSum


def mean_figure(values: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The (sum, count) whose quotient is the mean of `values`: two detached float32 scalars.

    Args:
        values: any shape and dtype, summed in float32.
        chosen: bool, the shape of `values`: which of them count. None: all.
    """
    values = values.detach().float()
    if chosen is not None:
        values = values[chosen]
    return values.sum(), torch.tensor(float(values.numel()), device=values.device)


def summed(losses: Tensor, figures: Figures) -> LossSum:
    """One loss an element, each with weight 1: total = their sum, count = their number."""
    return LossSum(losses.sum(), torch.tensor(float(losses.numel()), device=losses.device), figures)
