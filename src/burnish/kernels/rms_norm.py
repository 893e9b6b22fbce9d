"""RMSNorm with a backward pass of its own, which keeps the input and one number a row.

`rms_norm_reference` defines what is right. Source: Zhang and Sennrich, arXiv:1910.07467, eq. 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(inputs: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · (offset + weight), computed in float32, in the input's dtype.

    Args:
        inputs: [..., N].  weight: [N].
        offset: 1 where a family keeps its weights around zero, as Gemma does.
    """
    return _RMSNorm.apply(inputs, weight, epsilon, offset)


def rms_norm_reference(inputs: Tensor, weight: Tensor, epsilon: float, offset: float = 0.0) -> Tensor:
    """The same as `rms_norm`, left to automatic differentiation."""
    wide = inputs.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (normed * (offset + weight.float())).to(inputs.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, epsilon: float, offset: float) -> Tensor:
        wide = inputs.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # one pass, and no squares kept
        inverse = (size.square_().div_(inputs.shape[-1]).add_(epsilon)).rsqrt_()  # [..., 1] float32
        ctx.save_for_backward(inputs, weight, inverse)
        ctx.offset = offset
        return (wide * inverse).mul_(_scale(weight, offset)).to(inputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
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


def _scale(weight: Tensor, offset: float) -> Tensor:
    return weight.float() + offset if offset else weight.float()
