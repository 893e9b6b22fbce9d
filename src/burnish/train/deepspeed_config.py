"""The user's DeepSpeed configuration, with its "auto" values filled from the other settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from burnish import log
from burnish.config import Settings
from burnish.errors import BurnishError, SettingsError
from burnish.model.precision import Precision

AUTO = "auto"


def fill_config(config: Mapping[str, Any], settings: Settings, precision: Precision, ranks: int) -> dict[str, Any]:
    """The configuration as DeepSpeed gets it; `fill_sizes` adds what depends on the model.

    A value that is not "auto" must be the one of the settings. Optimizer and schedule are Burnish's own.

    Raises:
        SettingsError: the file says one thing and the settings another.
    """
    training = settings.training
    filled = copy.deepcopy(dict(config))
    for part in ("optimizer", "scheduler"):
        if filled.pop(part, None) is not None:
            ours = "optim" if part == "optimizer" else "lr_scheduler_type"
            log.note(f"the {part} in the DeepSpeed configuration is not used; {ours} says which it is")
    zero = filled.get("zero_optimization", {})
    if zero.get("round_robin_gradients"):
        # DeepSpeed 0.19 then looks for a weight's state in the order before the shuffle and gives another weight's.
        zero["round_robin_gradients"] = False
        log.note("round_robin_gradients is turned off: the optimizer's state could not be saved with it")
    rows, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    wanted: dict[str, tuple[Any, str]] = {
        "train_micro_batch_size_per_gpu": (rows, "per_device_train_batch_size"),
        "gradient_accumulation_steps": (accumulation, "gradient_accumulation_steps"),
        "train_batch_size": (rows * accumulation * ranks, "per_device_train_batch_size"),
        "gradient_clipping": (training.max_grad_norm, "max_grad_norm"),
    }
    problems: list[BurnishError] = []
    for key, (value, setting) in wanted.items():
        given = filled.get(key, AUTO)
        if given not in (AUTO, value):
            what = f"the DeepSpeed configuration says {key}: {given}, the settings make it {value:g}"
            problems.append(BurnishError(what, at=f"deepspeed: {key}", fix=f'write "auto" there, and set {setting}'))
        filled[key] = value
    formats = {"bf16": precision.dtype == torch.bfloat16, "fp16": precision.mixed == "fp16"}
    for key, on in formats.items():
        part = filled.setdefault(key, {})
        given = part.get("enabled", AUTO)
        if given not in (AUTO, on):
            what = f"the DeepSpeed configuration says {key}.enabled: {str(given).lower()}, but {precision.why}"
            problems.append(BurnishError(what, at=f"deepspeed: {key}.enabled", fix='write "auto" there'))
        part["enabled"] = on
        filled[key] = {name: value for name, value in part.items() if value != AUTO}
    if problems:
        raise SettingsError(problems)
    filled.setdefault("zero_allow_untested_optimizer", True)
    filled.setdefault("zero_force_ds_cpu_optimizer", False)  # torch's AdamW updates offloaded state as well
    filled.setdefault("steps_per_print", 2**31)  # the loop has its own progress bar
    return filled


def fill_sizes(config: dict[str, Any], hidden_size: int) -> dict[str, Any]:
    """Fill the buffer sizes that follow from the width of the model, in numbers of elements.

    Raises:
        BurnishError: another value is "auto", which nothing says how to fill.
    """
    zero = config.get("zero_optimization", {})
    sizes = {
        "reduce_bucket_size": hidden_size * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    for key, size in sizes.items():
        if zero.get(key) == AUTO:
            zero[key] = size
    left = _autos(config)
    if left:
        raise BurnishError(f'"auto" cannot be filled for {left[0]}', at=f"deepspeed: {left[0]}", fix="write a value")
    return config


def zero_stage(config: Mapping[str, Any]) -> int:
    """0: nothing is cut. 1: optimizer state. 2: gradients as well. 3: weights as well."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _autos(config: Mapping[str, Any], before: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _autos(value, f"{before}{key}.")
        elif value == AUTO:
            found.append(before + key)
    return found
