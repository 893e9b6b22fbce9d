"""A small model with one weight of each kind, and gradients that are the same for every optimizer under test."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from burnish.train.optimizers import MasterOptimizer, OptimizerOptions, build_optimizer

WIDTH = 64  # 64 × 64 = 4096 weights: the smallest tensor that bitsandbytes holds in 8 bits

NAMES = [
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_32bit",
    "adam_mini",
    "adafactor",
    "muon",
    "lion",
    "lion_8bit",
    "paged_lion_32bit",
    "sgd",
    "adagrad",
    "rmsprop",
]
"""One name for each way of updating; the others are second names of these."""

EXTRAS = {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.5, "centered": True}, "adafactor": {"beta1": 0.9}}
"""Values with which an optimizer keeps more state than it must."""


class Toy(nn.Module):
    """An embedding, a matrix between hidden layers, a norm, a bias and an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(70, WIDTH)
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, 70, bias=False)


def toy(dtype: torch.dtype = torch.float32) -> Toy:
    torch.manual_seed(0)
    return Toy().to(torch.bfloat16).to(dtype)  # values that both formats can hold


def optimizer_of(model: nn.Module, name: str, **changes: object) -> MasterOptimizer:
    values = {"learning_rate": 1e-3, "weight_decay": 0.1, "extras": EXTRAS.get(name, {}), **changes}
    return build_optimizer(model, OptimizerOptions(name=name, **values))  # type: ignore[arg-type]


def give_gradients(model: nn.Module, step: int) -> None:
    """Random gradients that depend on the step alone, with values that bfloat16 can hold."""
    random = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=random).to(torch.bfloat16)
        parameter.grad = gradient.to(parameter.dtype)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Steps with a rate that differs from step to step, as the loop sets it."""
    for step in steps:
        give_gradients(model, step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + step) * group.get("rate_factor", 1.0)
        optimizer.step()
        optimizer.zero_grad()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
