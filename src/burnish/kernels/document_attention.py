"""Attention over the documents of a packed row on a CPU in float32 or bfloat16, by a kernel in C (`attend.c`).

PyTorch's own attention computes what causality hides as well, and takes a document at a time. Its results are what this
one is held against (`attention.masked_attention_reference`), and it is used where this one cannot be.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.kernels.codes import TYPES
from burnish.kernels.native import CannotCompile, native

_LONG, _POINTER = ctypes.c_int64, ctypes.c_void_p


class _Document(ctypes.Structure):
    _fields_ = [(name, _LONG) for name in ("start", "length", "prompt_start", "prompt")]


class _Tensor(ctypes.Structure):
    _fields_ = [("data", _POINTER), ("head", _LONG), ("token", _LONG)]


class _Attention(ctypes.Structure):
    _fields_ = [
        ("documents", ctypes.POINTER(_Document)),
        *((name, _LONG) for name in ("count", "together", "heads", "shared", "size", "window", "type")),
        ("scale", ctypes.c_float),
        *((name, _Tensor) for name in ("query", "key", "value", "out", "grad", "grad_query", "grad_key", "grad_value")),
        *((name, _Tensor) for name in ("each_key", "each_value")),
        ("sums", _POINTER),
        ("tokens", _LONG),
    ]


@cache
def _compiled() -> Any:
    """The functions of `attend.c`. Raises CannotCompile, also where they read their arguments in another way."""
    found = native("attend")
    found.burnish_attend_scratch.restype = _LONG
    found.burnish_attend_scratch.argtypes = [_LONG, _LONG, ctypes.c_int]
    if found.burnish_attention_size() != ctypes.sizeof(_Attention):
        raise CannotCompile("attend.c was compiled with another layout")
    return found


@cache
def whole_vectors() -> int | None:
    """Head sizes that are a multiple of this are the kernel's; None where there is none.

    It is compiled at the first call and tried: on made-up numbers it must give what PyTorch gives, and its gradients.
    `BURNISH_ATTENTION=plain` switches it off.
    """
    if os.environ.get("BURNISH_ATTENTION") == "plain":
        return None
    try:
        lanes = int(_compiled().burnish_lanes())
    except CannotCompile:
        return None
    return lanes if _gives_what_torch_gives(2 * lanes) else None


def _gives_what_torch_gives(size: int) -> bool:
    drawn = torch.Generator().manual_seed(0)
    for dtype, near in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        with torch.inference_mode(False), torch.enable_grad():
            made = (torch.randn(1, heads, 150, size, generator=drawn).to(dtype) for heads in (2, 1, 1, 2))
            query, key, value, slope = (each.requires_grad_() for each in made)
            ours = document_attention(query, key, value, (150,), 0.3)
            plain = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
            found = [(one, *torch.autograd.grad(one, (query, key, value), slope)) for one in (ours, plain)]
        if not all(torch.allclose(one, other, atol=near, rtol=near) for one, other in zip(*found, strict=True)):
            return False
    return True


def attends_natively(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `document_attention` takes these: float32 or bfloat16 on a CPU, heads of whole vectors, a compiler."""
    tensors = query, key, value
    if query.dtype not in TYPES or query.shape[-1] != value.shape[-1]:
        return False
    if any(each.dtype != query.dtype or each.device.type != "cpu" or each.stride(-1) != 1 for each in tensors):
        return False
    lanes = whole_vectors()
    return lanes is not None and query.shape[-1] % lanes == 0


def document_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scale: float,
    window: int | None = None,
    shared_prompts: Sequence[int] | None = None,
) -> Tensor:
    """Causal attention inside each document; the arguments are those of `attention.packed_attention`.

    The result does not depend on the number of threads. `attends_natively` says what it takes.

    Returns:
        [1, H, T, D]; the tokens lie one after another, as the layers before and behind have them.
    """
    prompts = None if shared_prompts is None else tuple(shared_prompts)
    return _Documents.apply(query, key, value, tuple(lengths), scale, window, prompts)


class _Documents(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: tuple[int, ...],
        scale: float,
        window: int | None,
        prompts: tuple[int, ...] | None,
    ) -> Tensor:
        out, sums = in_rows(query), query.new_empty(query.shape[1:3], dtype=torch.float32)
        ctx.given = lengths, scale, window, prompts
        _run(*_job(ctx.given, sums, query=query, key=key, value=value, out=out), backward=False)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, sums = ctx.saved_tensors
        grad = grad_outputs[0] if grad_outputs[0].stride(-1) == 1 else grad_outputs[0].contiguous()
        grads = {f"grad_{name}": in_rows(each) for name, each in (("query", query), ("key", key), ("value", value))}
        tensors = {"query": query, "key": key, "value": value, "out": out, "grad": grad, **grads}
        if query.shape[1] == key.shape[1] and query.dtype == torch.float32:
            tensors |= {"each_key": grads["grad_key"], "each_value": grads["grad_value"]}
        else:
            tensors |= {name: torch.empty(query.shape, dtype=torch.float32) for name in ("each_key", "each_value")}
        _run(*_job(ctx.given, sums, **tensors), backward=True)
        return *grads.values(), None, None, None, None


_Given = tuple[Sequence[int], float, int | None, Sequence[int] | None]
"""Lengths, scale, window and shared prompts."""


def _job(given: _Given, sums: Tensor, **tensors: Tensor) -> tuple[_Attention, int]:
    """What the kernel reads, and the keys of the document that looks at the most."""
    lengths, scale, window, prompts = given
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    together = 1 if prompts is None else 2
    documents = [_Document(*each, 0, 0) for each in zip(starts, lengths, strict=True)]
    for pair, prompt in enumerate(prompts or ()):
        documents[2 * pair + 1].prompt_start, documents[2 * pair + 1].prompt = starts[2 * pair], prompt
    # The longest first, so that no thread begins with one when the others are done.
    groups = [documents[first : first + together] for first in range(0, len(documents), together)]
    groups.sort(key=lambda group: -sum(each.length for each in group))
    ordered = [each for group in groups for each in group]
    job = _Attention((_Document * len(ordered))(*ordered), len(ordered), together)
    job.scale, job.window, job.sums = scale, window or 0, sums.data_ptr()
    query = tensors["query"]
    job.type = TYPES[query.dtype]
    job.heads, job.shared, job.size, job.tokens = (
        query.shape[1],
        tensors["key"].shape[1],
        query.shape[3],
        query.shape[2],
    )
    for name, each in tensors.items():
        setattr(job, name, _Tensor(each.data_ptr(), each.stride(1), each.stride(2)))
    return job, max(each.length + each.prompt for each in documents)


def _run(job: _Attention, longest: int, *, backward: bool) -> None:
    compiled, threads = _compiled(), torch.get_num_threads()
    size = compiled.burnish_attend_scratch(job.size, longest, int(backward))
    scratch = torch.empty(threads, size, dtype=torch.float32)
    run = compiled.burnish_attend_back if backward else compiled.burnish_attend
    run(ctypes.byref(job), threads, _POINTER(scratch.data_ptr()), _LONG(size))


def in_rows(like: Tensor) -> Tensor:
    """An empty [1, H, T, D] whose tokens lie one after another."""
    _, heads, length, size = like.shape
    return like.new_empty(1, length, heads, size).transpose(1, 2)
