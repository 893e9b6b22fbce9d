"""From settings to the engine of a run."""

from __future__ import annotations

import os
import warnings

import torch

from burnish import log
from burnish.config import Settings
from burnish.model.precision import Precision
from burnish.train.deepspeed_config import fill_config
from burnish.train.engine import Engine
from burnish.train.parallel import choose_engine
from burnish.train.processes import start_processes


def build_engine(settings: Settings, device: torch.device, precision: Precision) -> Engine:
    """Join the other processes, if a launcher started any, and choose how the work is shared."""
    plan = choose_engine(settings)
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, which accelerate imports where it is installed
    distributed = settings.distributed
    processes = start_processes(device.type, distributed.ddp_timeout, alone_too=plan.kind == "deepspeed")
    if not processes.is_first:
        _hush()
    for line in plan.notes:
        log.note(line)
    if plan.kind == "fsdp" and processes.here.world > 1:
        from burnish.train.fsdp import ShardedEngine

        return ShardedEngine(processes, device, plan.fsdp)
    if plan.kind == "fsdp":
        log.note("fsdp has no effect on one process, which holds the whole model")
    if plan.kind == "deepspeed":
        from burnish.train.zero import ZeroEngine

        return ZeroEngine(processes, device, fill_config(plan.deepspeed, settings, precision, processes.here.world))
    return Engine(processes, device, precision.mixed, find_unused=distributed.ddp_find_unused_parameters)


def _hush() -> None:
    """Rank 0 talks; what libraries warn about on the others is the same."""
    from transformers.utils import logging as transformers_log

    log.set_quiet(True)
    warnings.simplefilter("ignore")
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
