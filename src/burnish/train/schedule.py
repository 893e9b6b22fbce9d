"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from burnish.errors import BurnishError


def warmup_optimizer_steps(total_steps: int, warmup_ratio: float, warmup_steps: float) -> int:
    """Steps of warm-up: `warmup_steps` where it is given (below 1 it is a share), else the ratio, rounded up."""
    if warmup_steps >= 1:
        return int(warmup_steps)
    return math.ceil(total_steps * (warmup_steps or warmup_ratio))


def rate_by_step(
    name: str, base_rate: float, total_steps: int, warmup: int, options: dict[str, Any] | None = None
) -> Callable[[int], float]:
    """A function from the number of finished optimizer steps to the learning rate of the next one.

    Args:
        name: any schedule that transformers knows (linear, cosine, constant_with_warmup, …) and that depends on the
            step alone.
    Raises:
        BurnishError: transformers refuses the name or the options.
    """
    from transformers import get_scheduler

    probe = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_rate)
    try:
        scheduler = get_scheduler(name, probe, warmup, total_steps, scheduler_specific_kwargs=options or {})
    except (ValueError, TypeError, KeyError) as error:
        raise BurnishError(
            f"the schedule '{name}' cannot be built: {error}",
            at="lr_scheduler_type, lr_scheduler_kwargs",
            fix="use linear, cosine, constant, constant_with_warmup, polynomial or cosine_with_restarts",
        ) from error
    factors = getattr(scheduler, "lr_lambdas", None)
    if not factors:
        raise BurnishError(
            f"the schedule '{name}' does not depend on the step alone, so a resumed run could not repeat it",
            at="lr_scheduler_type",
            fix="use linear, cosine or constant_with_warmup",
        )
    return lambda step: base_rate * factors[0](step)
