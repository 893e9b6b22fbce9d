"""Memory of the CPU between micro-batches.

Tensors of one size leave holes that those of another do not fit: a process that trains on batches of many lengths holds
far more than any batch needs. What is free is therefore given back to the system after each of them.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch


def give_back(device: torch.device) -> bool:
    """Give the free memory of this process back; returns whether some was given back.

    Nothing happens where the tensors lie on a GPU, and with another C library than glibc.
    """
    trim = _trim() if device.type == "cpu" else None
    return bool(trim(0)) if trim else False


@cache
def _trim() -> Any:
    """glibc's malloc_trim, or None."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
