"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from burnish import log
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
        options: further values of that schedule, by transformers' names: num_cycles, power, min_lr, num_decay_steps, …
    Raises:
        BurnishError: transformers refuses the name or the options, or the rate is no number at some step.
    """
    from transformers import get_scheduler

    probe = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_rate)
    try:
        scheduler = get_scheduler(name, probe, warmup, total_steps, scheduler_specific_kwargs=options or {})
        factors = getattr(scheduler, "lr_lambdas", None)
        if factors:
            _try_out(factors[0], total_steps, warmup)
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise BurnishError(
            f"the schedule '{name}' cannot be built: {error}",
            at="lr_scheduler_type, lr_scheduler_kwargs",
            fix="see docs/optimizers.md for the values each schedule takes",
        ) from error
    if not factors:
        raise BurnishError(
            f"the schedule '{name}' does not depend on the step alone, so a resumed run could not repeat it",
            at="lr_scheduler_type",
            fix="use linear, cosine or constant_with_warmup",
        )
    if name == "warmup_stable_decay":
        _check_phases(total_steps, warmup, options or {})
    return lambda step: base_rate * factors[0](step)


def _try_out(factor: Callable[[int], float], total_steps: int, warmup: int) -> None:
    """Ask for the rate at the places where a formula may break: the ends, and the end of the warm-up."""
    for step in (0, warmup, (warmup + total_steps) // 2, total_steps - 1):
        if not math.isfinite(factor(step)):
            raise ValueError(f"the rate after {step} steps is {factor(step)}")


def _check_phases(total_steps: int, warmup: int, options: dict[str, Any]) -> None:
    """The phases of warm-up, stable rate and decay must fit into the run; what they leave over is said."""
    decay = options["num_decay_steps"]
    stable = options.get("num_stable_steps")
    if warmup + (stable or 0) + decay > total_steps:
        kept = f"{warmup} steps of warm-up, " + (f"{stable} of stable rate, " if stable else "")
        raise BurnishError(
            f"{kept}and {decay} of decay do not fit into {total_steps} steps",
            at="lr_scheduler_kwargs",
            fix="lower num_decay_steps or the warm-up, or train for more steps",
        )
    if stable is not None and warmup + stable + decay < total_steps:
        log.note(
            f"the schedule ends after {warmup + stable + decay} of {total_steps} steps; from there on the rate is "
            f"{options.get('min_lr_ratio', 0)} times its height. Leave num_stable_steps out to fill the run"
        )
