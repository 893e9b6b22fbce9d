"""Rotary position embeddings of queries and keys in one pass on a CPU, by a kernel in C (`rotate.c`).

`rotary_reference` is the formula that Llama and most families after it share; it defines what is right. Source: Su et
al., RoFormer, arXiv:2104.09864, eq. 34, with a head's numbers paired half a head apart.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.kernels.codes import TYPES
from burnish.kernels.document_attention import in_rows
from burnish.kernels.native import CannotCompile, native

_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Turned(ctypes.Structure):
    _fields_ = [
        ("source", _POINTER),
        ("target", _POINTER),
        *((name, _LONG) for name in ("heads", "from_head", "from_token", "to_head", "to_token")),
    ]


class _Rotation(ctypes.Structure):
    _fields_ = [("each", _Turned * 2), ("cosines", _POINTER), ("sines", _POINTER), ("tokens", _LONG), ("size", _LONG)]


def rotary_reference(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Turn queries [B, H, T, D] and keys [B, H_kv, T, D] by the angles of their places, [B, T, D] each."""
    cosines, sines = cosines[:, None], sines[:, None]

    def turned(each: Tensor) -> Tensor:
        first, second = each.chunk(2, dim=-1)
        return each * cosines + torch.cat([-second, first], dim=-1) * sines

    return turned(query), turned(key)


def rotary(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """What `rotary_reference` gives, for one packed row; `rotates_natively` says what is taken.

    Args:
        query: [1, H, T, D].  key: [1, H_kv, T, D].  cosines, sines: [1, T, D]; all float32 or all bfloat16.
    Returns:
        Both turned; the numbers of a token lie beside each other in memory.
    """
    turned: tuple[Tensor, Tensor] = _Rotary.apply(query, key, cosines, sines)
    return turned


def rotates_natively(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> bool:
    """Whether `rotary` takes these: one row on a CPU, whole vectors in half a head, angles that are not trained.

    False where there is no compiler, and with `BURNISH_ELEMENTWISE=plain`.
    """
    if query.dtype not in TYPES or query.device.type != "cpu" or query.ndim != 4 or query.shape[0] != 1:
        return False
    if any(each.dtype != query.dtype or each.stride(-1) != 1 for each in (query, key, cosines, sines)):
        return False
    shape = 1, query.shape[2], query.shape[3]
    if cosines.shape != shape or sines.shape != shape or cosines.requires_grad or sines.requires_grad:
        return False
    lanes = _lanes()
    return lanes is not None and key.shape[2:] == query.shape[2:] and query.shape[3] % (2 * lanes) == 0


@cache
def _lanes() -> int | None:
    if os.environ.get("BURNISH_ELEMENTWISE") == "plain":
        return None
    try:
        return int(_compiled().burnish_lanes())
    except CannotCompile:
        return None


@cache
def _compiled() -> Any:
    """The functions of `rotate.c`. Raises CannotCompile, also where they read their arguments in another way."""
    found = native("rotate")
    if found.burnish_rotation_size() != ctypes.sizeof(_Rotation):
        raise CannotCompile("rotate.c was compiled with another layout")
    return found


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cosines, sines)
        return _turn(query, key, cosines, sines, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key = (each if each.stride(-1) == 1 else each.contiguous() for each in grad_outputs)
        return *_turn(query, key, *ctx.saved_tensors, back=True), None, None


def _turn(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, *, back: bool) -> tuple[Tensor, Tensor]:
    job = _Rotation(tokens=query.shape[2], size=query.shape[3])
    cosines, sines = cosines.contiguous(), sines.contiguous()
    job.cosines, job.sines = cosines.data_ptr(), sines.data_ptr()
    made = in_rows(query), in_rows(key)
    for place, (given, out) in enumerate(zip((query, key), made, strict=True)):
        steps = given.stride(1), given.stride(2), out.stride(1), out.stride(2)
        job.each[place] = _Turned(given.data_ptr(), out.data_ptr(), given.shape[1], *steps)
    _compiled().burnish_rotate(ctypes.byref(job), TYPES[query.dtype], int(back), torch.get_num_threads())
    return made
