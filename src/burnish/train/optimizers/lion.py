"""Lion: the sign of a mean of gradients; one state value a weight."""

from __future__ import annotations

from typing import Any

import torch


class Lion(torch.optim.Optimizer):
    """Every weight moves by the learning rate, in the direction of the sign of a mix of gradient and momentum.

        c = beta1 m + (1 - beta1) g;  w = w - lr (sign(c) + weight_decay w);  m = beta2 m + (1 - beta2) g

    Args:
        lr: about a third to a tenth of AdamW's, for each weight moves by all of it.
        betas: beta1 and beta2; the paper uses 0.9 and 0.99.
    Source: Chen et al., arXiv:2302.06675, algorithm 2 (the weight decay is taken off before the step, as AdamW does:
        w (1 - lr weight_decay) - lr sign(c) is the same number).
    """

    def __init__(
        self, groups: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                direction = momentum.lerp(parameter.grad, 1 - beta1).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - beta2)
