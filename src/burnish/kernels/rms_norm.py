"""RMSNorm with a backward pass of its own, which keeps the input and one number a row.

What it gives says what it was made from. A layer that reads it and needs it to go back keeps that, which is kept
anyway, and makes the normed numbers again: two activations less of every layer.

On a CPU a kernel goes each way in one pass (`elementwise`). `rms_norm_reference` defines what is right. Source: Zhang
and Sennrich, arXiv:1910.07467, eq. 4.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.kernels import elementwise


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · (offset + weight), computed in float32, in the input's dtype.

    Args:
        inputs: [..., N].  weight: [N].
        offset: 1 where a family keeps its weights around zero, as Gemma does.
    """
    normed: Tensor
    normed, inverse = _RMSNorm.apply(inputs, weight, epsilon, offset)
    if normed.requires_grad:
        normed._normed_from = Source(inputs, inverse, weight, offset), normed._version  # type: ignore[attr-defined]
    return normed


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What `rms_norm` gave its output from: [..., N], [..., 1] float32 and [N]; the bits of the output follow."""

    inputs: Tensor
    inverse: Tensor
    weight: Tensor
    offset: float


def source_of(tensor: Tensor) -> Source | None:
    """What a tensor was normed from, where `rms_norm` made it and nobody did anything to it since."""
    found: tuple[Source, int] | None = getattr(tensor, "_normed_from", None)
    return found[0] if found and found[1] == tensor._version else None


class _Last(threading.local):
    """What was normed again last: the layers that read one norm go back one after another."""

    inputs: Tensor | None = None  # held, so that no other tensor can lie in its place
    version = 0
    normed: Tensor | None = None


_last = _Last()


def normed_again(source: Source) -> Tensor:
    """The output of `rms_norm`, bit for bit."""
    inputs = source.inputs
    if _last.inputs is None or _last.normed is None or not _same(_last.inputs, inputs):
        _last.inputs, _last.version = inputs, inputs._version
        _last.normed = _again(source)
    return _last.normed


def _again(source: Source) -> Tensor:
    inputs, inverse, weight, offset = source.inputs, source.inverse, source.weight, source.offset
    if elementwise.takes(inputs, weight):
        return elementwise.norm_again(inputs, inverse, weight, offset)
    return _normed(inputs.float(), inverse, weight, offset).to(inputs.dtype)


def _same(held: Tensor, inputs: Tensor) -> bool:
    place = (inputs.data_ptr(), inputs.shape, inputs.stride(), inputs.dtype, inputs._version)
    return place == (held.data_ptr(), held.shape, held.stride(), held.dtype, _last.version)


def rms_norm_reference(inputs: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """The same as `rms_norm`, left to automatic differentiation."""
    wide = inputs.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (normed * (offset + weight.float())).to(inputs.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float, offset: float) -> tuple[Tensor, Tensor]:
        natively = elementwise.takes(inputs, weight)
        if natively:
            normed, inverse = elementwise.norm(inputs, weight, epsilon, offset)
        else:
            wide = inputs.float()
            size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # one pass, and no squares kept
            inverse = (size.square_().div_(inputs.shape[-1]).add_(epsilon)).rsqrt_()  # [..., 1] float32
            normed = _normed(wide, inverse, weight, offset).to(inputs.dtype)
        ctx.save_for_backward(inputs, weight, inverse)
        ctx.offset, ctx.natively = offset, natively
        ctx.mark_non_differentiable(inverse)
        return normed, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
        _last.inputs = _last.normed = None  # all that read this norm went back before it
        if ctx.natively:
            wanted = {"for_inputs": ctx.needs_input_grad[0], "for_weight": ctx.needs_input_grad[1]}
            slope = grad_outputs[0].contiguous()
            grad, of_weight = elementwise.norm_back(slope, inputs, weight, inverse, ctx.offset, **wanted)
            return grad, None if of_weight is None else of_weight.to(weight.dtype), None, None
        slope, wide = grad_outputs[0].float(), inputs.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            flat = (slope * wide * inverse).reshape(-1, weight.shape[0])
            grad_weight = flat.sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        # With y = x / s: d loss / d x = (g - y · mean(g · y)) / s
        slope = slope * _scale(weight, ctx.offset)
        common = torch.linalg.vecdot(slope, wide)[..., None]  # [..., 1]
        common = common.mul_(inverse.pow(3)).div_(-inputs.shape[-1])
        grad = slope.mul_(inverse).addcmul_(wide, common)
        return grad.to(inputs.dtype), grad_weight, None, None


def _normed(wide: Tensor, inverse: Tensor, weight: Tensor, offset: float) -> Tensor:
    return (wide * inverse).mul_(_scale(weight, offset))


def _scale(weight: Tensor, offset: float) -> Tensor:
    return weight.float() + offset if offset else weight.float()
