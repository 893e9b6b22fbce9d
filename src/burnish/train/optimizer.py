"""AdamW that keeps float32 copies of low-precision weights, so that small updates are not rounded away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW(torch.optim.AdamW):
    """AdamW over float32 copies of the parameters; after each step the parameters are the rounded copies.

    For float32 parameters, or with `masters=False`, the copy is the parameter itself and this is plain AdamW.

    Source: decoupled weight decay, Loshchilov & Hutter, arXiv:1711.05101; master weights, Micikevicius et al.,
        arXiv:1710.03740, section 3.1.
    """

    def __init__(self, groups: list[dict[str, Any]], *, masters: bool = True, **options: Any) -> None:
        self._models: list[Tensor] = []
        self._masters: list[Tensor] = []  # [i] is the float32 copy of self._models[i]
        own = []
        for group in groups:
            updated = []
            for parameter in group["params"]:
                master = parameter
                if masters and parameter.dtype in (torch.bfloat16, torch.float16):
                    master = nn.Parameter(parameter.detach().float().clone())
                    self._models.append(parameter)
                    self._masters.append(master)
                updated.append(master)
            own.append({**group, "params": updated})
        super().__init__(own, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; gradients are read from the model's parameters."""
        for parameter, master in zip(self._models, self._masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
        loss = super().step(closure)
        for parameter, master in zip(self._models, self._masters, strict=True):
            parameter.copy_(master)
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the model's parameters."""
        super().zero_grad(set_to_none)
        for parameter in self._models:
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors, for a checkpoint: moments, step counts and float32 copies."""
        named: dict[str, Tensor] = {}
        for number, parameter in enumerate(self._all()):
            for key, value in self.state.get(parameter, {}).items():
                named[f"{number}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
            if any(parameter is master for master in self._masters):
                named[f"{number}.master"] = parameter.detach().cpu().contiguous()
        return named

    @torch.no_grad()
    def load_tensors(self, named: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave; the model's parameters already hold their saved values.

        A float32 copy that was saved goes to this side's copy, or into the parameter itself where that is float32;
        a copy that was not saved (the run was in float32) starts from the parameter.

        Raises:
            ValueError: the state is of another set of parameters.
        """
        parameters = self._all()
        states = {int(name.partition(".")[0]) for name in named}
        if states and states != set(range(len(parameters))):
            raise ValueError(f"{len(states)} tensors were trained, now there are {len(parameters)}")
        for parameter, master in zip(self._models, self._masters, strict=True):
            master.copy_(parameter)
        for name, value in named.items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            if key != "step" and value.shape != parameter.shape:
                raise ValueError(f"tensor {number} had the shape {list(value.shape)}, now {list(parameter.shape)}")
            if key == "master":
                parameter.copy_(value)
            else:  # AdamW keeps its step count on the CPU; the moments live beside the weights
                own = value.clone() if key == "step" else value.to(parameter.device, parameter.dtype).clone()
                self.state[parameter][key] = own
        for parameter, master in zip(self._models, self._masters, strict=True):
            parameter.copy_(master)

    def _all(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    masters: bool = True,
) -> MasterAdamW:
    """AdamW over the trainable parameters; weight decay spares biases and norm weights (tensors of one dimension)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Iterable[dict[str, Any]] = (
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    )
    return MasterAdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(beta1, beta2),
        eps=epsilon,
        masters=masters,
    )
