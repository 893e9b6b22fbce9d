"""Several processes that share the questions of one evaluation, started by torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor


def process_count() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


class Processes:
    """What lm-eval asks of a model that runs in several processes: each answers its share, the first one counts."""

    def join(self, device: torch.device) -> None:
        """Meet the other processes, where there are any; `device` holds what is gathered."""
        self._device = device
        self._rank, self._world_size = 0, process_count()
        if self._world_size > 1:
            if not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            self._rank = torch.distributed.get_rank()

    def all_gather(self, tensor: Tensor) -> Tensor:
        if self._world_size == 1:
            return tensor
        rows = [torch.zeros_like(tensor).reshape(-1) for _ in range(self._world_size)]
        torch.distributed.all_gather(rows, tensor.reshape(-1))
        return torch.cat(rows)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        if self._world_size == 1:
            return [obj]
        found: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        torch.distributed.gather_object(obj, found, dst)
        return found

    def barrier(self) -> None:
        if self._world_size > 1:
            torch.distributed.barrier()
