"""Memory of the CPU between micro-batches.

Tensors of one size leave holes that those of another do not fit: a process that trains on batches of many lengths holds
far more than any batch needs. What is free is therefore given back to the system after each of them.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


def give_back(device: torch.device) -> bool:
    """Give the free memory of this process back; returns whether some was given back.

    Nothing happens where the tensors lie on a GPU, and with another C library than glibc.
    """
    trim = _trim() if device.type == "cpu" else None
    return bool(trim(0)) if trim else False


def keep_few_products() -> None:
    """Have oneDNN keep compiled code for 128 products, not 1,024, unless the environment says otherwise.

    It compiles one for each shape, and packed rows are of another length each time: 80 steps filled 150 MB with code
    that was hardly called again. A micro-batch has some thirty shapes. To be called before the first product.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


@cache
def _trim() -> Any:
    """glibc's malloc_trim, or None."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cyclic garbage more seldom while the block runs: where much is made that stays.

    Imports and modules make a million objects that live as long as the process, and a collector that runs each 700
    goes through them again and again. It takes a tenth of a short run.
    """
    before = gc.get_threshold()
    if before[0]:  # 0: somebody has switched it off
        gc.set_threshold(max(before[0], 50_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
