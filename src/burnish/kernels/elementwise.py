"""RMSNorm, the gate of an MLP and the softmax of the head on a CPU, in one pass each, by kernels in C.

PyTorch makes a pass over the whole tensor, and often a tensor, for every sum and product of the same formulas; in
bfloat16 it widens all numbers to float32 first. `rms_norm`, `projections` and `linear_cross_entropy` write these
formulas out and say what is right; they use what is here where `takes` says so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.kernels.codes import ACTIVATIONS, TYPES
from burnish.kernels.native import CannotCompile, native

_INT, _LONG, _FLOAT, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_BLOCKS = 64
"""Blocks of rows whose gradients of a norm's weight are added up apart, at most."""


class _CrossEntropy(ctypes.Structure):
    _fields_ = [
        ("logits", _POINTER),
        *((name, _LONG) for name in ("rows", "size")),
        *((name, _POINTER) for name in ("targets", "factors")),
        ("smoothing", _FLOAT),
        ("back", _INT),
        *((name, _POINTER) for name in ("logprobs", "losses", "hits")),
    ]


_SIGNATURES: dict[str, list[Any]] = {
    "burnish_norm": [
        *(_INT, _LONG, _LONG, _POINTER, _POINTER, _FLOAT, _FLOAT, _INT),
        *(_POINTER, _POINTER, _INT),
    ],
    "burnish_norm_back": [
        *(_INT, _LONG, _LONG, _LONG, _POINTER, _POINTER, _FLOAT),
        *(_POINTER, _POINTER, _POINTER, _POINTER, _INT),
    ],
    "burnish_gate": [_INT, _INT, _LONG, *([_POINTER] * 3), _INT],
    "burnish_gate_back": [_INT, _INT, _LONG, *([_POINTER] * 5), _INT],
    "burnish_cross_entropy": [_INT, ctypes.POINTER(_CrossEntropy), _INT],
}


@cache
def _compiled() -> Any:
    """The functions of `elementwise.c`. Raises CannotCompile, also where they read their arguments in another way."""
    found = native("elementwise")
    if found.burnish_cross_entropy_size() != ctypes.sizeof(_CrossEntropy):
        raise CannotCompile("elementwise.c was compiled with another layout")
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, None
    return found


@cache
def is_there() -> bool:
    """Whether these kernels can be used: compiled at the first call, and tried on made-up numbers.

    `BURNISH_ELEMENTWISE=plain` switches them off.
    """
    if os.environ.get("BURNISH_ELEMENTWISE") == "plain":
        return False
    try:
        _compiled()
    except CannotCompile:
        return False
    with torch.inference_mode(False), torch.no_grad():
        return all(_gives_what_torch_gives(dtype, size) for dtype in TYPES for size in (5, 83))


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels read these: on a CPU, all float32 or all bfloat16, without gaps; and are there."""
    dtype = tensors[0].dtype
    if dtype not in TYPES or tensors[0].device.type != "cpu":
        return False
    for each in tensors:
        # Other classes, such as weights cut into shards, may hold no numbers of their own.
        if each.dtype != dtype or type(each) not in (Tensor, torch.nn.Parameter) or not each.is_contiguous():
            return False
    return is_there()


# -- RMSNorm ------------------------------------------------------------------------------------------------


def norm(inputs: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
    """As `rms_norm.rms_norm`: [..., N] → [..., N], and 1 / sqrt(mean(x²) + epsilon), [..., 1] float32."""
    inverse = inputs.new_empty((*inputs.shape[:-1], 1), dtype=torch.float32)
    return _norm(inputs, weight, epsilon, offset, inverse, again=False), inverse


def norm_again(inputs: Tensor, inverse: Tensor, weight: Tensor, offset: float) -> Tensor:
    """What `norm` gave, bit for bit: [..., N]."""
    return _norm(inputs, weight, 0.0, offset, inverse, again=True)


def _norm(inputs: Tensor, weight: Tensor, epsilon: float, offset: float, inverse: Tensor, *, again: bool) -> Tensor:
    out = torch.empty_like(inputs)
    size = weight.shape[0]
    _compiled().burnish_norm(
        *(TYPES[inputs.dtype], inputs.numel() // size, size, inputs.data_ptr(), weight.data_ptr(), offset, epsilon),
        *(again, inverse.data_ptr(), out.data_ptr(), torch.get_num_threads()),
    )
    return out


def norm_back(
    slope: Tensor, inputs: Tensor, weight: Tensor, inverse: Tensor, offset: float, *, for_inputs: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """From d loss / d out, [..., N], the gradients of inputs, [..., N], and weight, [N] float32: those asked for."""
    size = weight.shape[0]
    rows = inputs.numel() // size
    block = max(8, -(-rows // _BLOCKS))
    grad = torch.empty_like(inputs) if for_inputs else None
    parts = inputs.new_zeros(max(1, -(-rows // block)), size, dtype=torch.float32) if for_weight else None
    _compiled().burnish_norm_back(
        *(TYPES[inputs.dtype], rows, size, block, inputs.data_ptr(), weight.data_ptr(), offset, inverse.data_ptr()),
        *(slope.data_ptr(), _place(grad), _place(parts), torch.get_num_threads()),
    )
    return grad, None if parts is None else parts[0]


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


# -- the gate of an MLP -------------------------------------------------------------------------------------


def gate(gated: Tensor, raised: Tensor, activation: str) -> Tensor:
    """activation(gated) · raised, both [T, N]; `activation` is one of `projections.ACTIVATIONS`."""
    out = torch.empty_like(gated)
    _compiled().burnish_gate(
        *(TYPES[gated.dtype], ACTIVATIONS[activation], gated.numel()),
        *(gated.data_ptr(), raised.data_ptr(), out.data_ptr(), torch.get_num_threads()),
    )
    return out


def gate_back(
    slope: Tensor, gated: Tensor, raised: Tensor, activation: str, *, want_product: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """From d loss / d (activation(gated) · raised), which is written over: all [T, N].

    Returns:
        d loss / d raised, in the slope's place; d loss / d gated; and the product again, where it is wanted.
    """
    grad = torch.empty_like(gated)
    product = torch.empty_like(gated) if want_product else None
    _compiled().burnish_gate_back(
        *(TYPES[gated.dtype], ACTIVATIONS[activation], gated.numel(), gated.data_ptr(), raised.data_ptr()),
        *(slope.data_ptr(), grad.data_ptr(), _place(product), torch.get_num_threads()),
    )
    return slope, grad, product


# -- the softmax of the head --------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Of n rows of logits: log-probabilities of targets and losses, [n] float32; hits, [n] bool, where wanted."""

    logprobs: Tensor
    losses: Tensor
    hits: Tensor | None


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    factors: Tensor,
    *,
    smoothing: float = 0.0,
    back: bool,
    want_hits: bool = False,
) -> Rows:
    """The loss of each row of logits, [n, V], of which `losses.token_cross_entropy` says what it is.

    Args:
        targets: [n] int64, each below V.  factors: [n] float32.
        back: write d (sum of factors · losses) / d logits over the logits, in their dtype.
    Raises:
        IndexError: a target is no place in the vocabulary.
    """
    targets, factors = targets.contiguous(), factors.float().contiguous()
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]:
        raise IndexError(f"targets from {int(targets.min())} to {int(targets.max())} for {logits.shape[1]} logits")
    logprobs, losses = (torch.empty(len(targets), dtype=torch.float32) for _ in range(2))
    hits = torch.empty(len(targets), dtype=torch.bool) if want_hits else None
    job = _CrossEntropy(logits.data_ptr(), *logits.shape, targets.data_ptr(), factors.data_ptr(), smoothing, back)
    job.logprobs, job.losses, job.hits = logprobs.data_ptr(), losses.data_ptr(), _place(hits)
    _compiled().burnish_cross_entropy(TYPES[logits.dtype], ctypes.byref(job), torch.get_num_threads())
    return Rows(logprobs, losses, hits)


# -- the trial ----------------------------------------------------------------------------------------------


def _gives_what_torch_gives(dtype: torch.dtype, size: int) -> bool:
    drawn = torch.Generator().manual_seed(0)
    one, other, slope = (torch.randn(9, size, generator=drawn).mul_(3).to(dtype) for _ in range(3))
    found = [*_tried_norm(one, other[0], slope), *_tried_gates(one, other, slope), *_tried_loss(one)]
    near = 1e-5 if dtype == torch.float32 else 2**-7
    return all(torch.allclose(ours.double(), right, atol=near, rtol=near) for ours, right in found)


_Pairs = list[tuple[Tensor, Tensor]]
"""What a kernel gave, and the same by PyTorch in float64."""


def _tried_norm(inputs: Tensor, weight: Tensor, slope: Tensor) -> _Pairs:
    out, inverse = norm(inputs, weight, 1e-3, 1.0)
    ours = out, *norm_back(slope, inputs, weight, inverse, 1.0, for_inputs=True, for_weight=True)
    with torch.enable_grad():
        wide, scale = (each.double().requires_grad_() for each in (inputs, weight))
        plain = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3) * (scale + 1)
        right = plain.detach(), *torch.autograd.grad(plain, (wide, scale), slope.double())
    again = norm_again(inputs, inverse, weight, 1.0)
    return [*_pairs(ours, right), (again, out.double())]


def _tried_gates(gated: Tensor, raised: Tensor, slope: Tensor) -> _Pairs:
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
    }
    found: _Pairs = []
    for name, act in plain.items():
        with torch.enable_grad():
            wide, up = (each.double().requires_grad_() for each in (gated, raised))
            product = act(wide) * up
            right = product.detach(), *torch.autograd.grad(product, (up, wide), slope.double()), product.detach()
        back = gate_back(slope.clone(), gated, raised, name, want_product=True)
        found += _pairs((gate(gated, raised, name), *back), right)
    return found


def _tried_loss(logits: Tensor) -> _Pairs:
    targets = torch.arange(len(logits)) % logits.shape[1]
    factors = torch.linspace(-1, 2, len(logits))
    with torch.enable_grad():
        wide = logits.double().requires_grad_()
        losses = F.cross_entropy(wide, targets, label_smoothing=0.1, reduction="none")
        (right,) = torch.autograd.grad(losses, wide, factors.double())
    slope = logits.clone()
    rows = cross_entropy(slope, targets, factors, smoothing=0.1, back=True)
    logprobs = wide.detach().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return _pairs((rows.losses, rows.logprobs, slope), (losses.detach(), logprobs, right))


def _pairs(ours: tuple[Tensor | None, ...], right: tuple[Tensor, ...]) -> _Pairs:
    return [(one, other) for one, other in zip(ours, right, strict=True) if one is not None]
