"""From settings to the engine of a run."""

from __future__ import annotations

import torch

from burnish import log
from burnish.config import Settings
from burnish.model.precision import Precision
from burnish.train.engine import Engine
from burnish.train.parallel import choose_engine
from burnish.train.processes import start_processes


def build_engine(settings: Settings, device: torch.device, precision: Precision) -> Engine:
    """Join the other processes, if a launcher started any, and choose how the work is shared."""
    plan = choose_engine(settings)
    distributed = settings.distributed
    processes = start_processes(device.type, distributed.ddp_timeout, alone_too=plan.kind == "deepspeed")
    log.set_quiet(not processes.is_first)
    for line in plan.notes:
        log.note(line)
    return Engine(processes, device, precision.mixed, find_unused=distributed.ddp_find_unused_parameters)
