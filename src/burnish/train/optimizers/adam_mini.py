"""Adam-mini: Adam with one second moment for a whole block of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WHOLE, COLUMNS = 0, -1
"""Blocks that are no number of rows: the whole tensor is one, or each column is one."""


def _block_means(values: Tensor, block: int) -> Tensor:
    """The mean of each block, [number of blocks]; a positive `block` is rows (over all but the last dimension)."""
    if block == WHOLE:
        return values.mean().reshape(1)
    if block == COLUMNS:
        return values.mean(dim=0)
    rows = values.flatten(0, -2).mean(dim=-1)
    return rows.reshape(-1, block).mean(dim=1)


def _spread(blocks: Tensor, like: Tensor, block: int) -> Tensor:
    """One value a block, [number of blocks], in a shape that broadcasts over `like`."""
    if block == WHOLE:
        return blocks.reshape([1] * like.ndim)
    if block == COLUMNS:
        return blocks.reshape([1] * (like.ndim - 1) + [-1])
    return blocks.repeat_interleave(block).reshape(*like.shape[:-1], 1)


class AdamMini(torch.optim.Optimizer):
    """AdamW whose second moment is the mean over a block: a head of queries or keys, an output neuron, a whole vector.

    Each group names its `block`: a number of rows, `WHOLE` or `COLUMNS`. The second moment is float32.

    Source: Zhang et al., arXiv:2406.16793; the blocks as in the authors' package 1.1.1, but for biases.
    """

    def __init__(
        self,
        groups: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        block: int = 1,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "block": block})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        for group in self.param_groups:
            (beta1, beta2), block = group["betas"], group["block"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                squares = _block_means(parameter.grad.float().square(), block)
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(squares)
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
                state["exp_avg_sq"].lerp_(squares, 1 - beta2)
                root = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
                rates = (group["lr"] / (1 - beta1 ** state["step"])) / root
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcmul_(state["exp_avg"], _spread(rates, parameter, block).to(parameter.dtype), value=-1)
