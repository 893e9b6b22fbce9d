"""Linear layers with LoRA, and the gated MLP made of three of them, with backward passes of their own.

What automatic differentiation does with the same formulas costs more: it keeps the product of gate and up and each
activation between, and makes a pass over whole activations for every sum and every scale. Here sums are added into what
is there already, and what is cheap is computed again. On a CPU a kernel goes through the gate in one pass each way
(`elementwise`). `linear_reference` and `gated_mlp_reference` define what is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.kernels import elementwise
from burnish.kernels.rms_norm import Source, normed_again, source_of

Tensors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
"""A projection's weight, bias, A and B."""


@dataclass(frozen=True, slots=True)
class Projection:
    """x W^T + b + scale · (x A^T) B^T: a linear layer, and an adapter over it where there is one.

    weight: [N, K].  bias: [N] or None.  down: A, [r, K], up: B, [N, r], or both None.
    """

    weight: Tensor
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    scale: float = 1.0

    @property
    def tensors(self) -> Tensors:
        return self.weight, self.bias, self.down, self.up


def linear(inputs: Tensor, projection: Projection) -> Tensor:
    """A linear layer with its adapter: [..., K] → [..., N]."""
    return _Linear.apply(inputs, *projection.tensors, projection.scale, source_of(inputs))


def gated_mlp(inputs: Tensor, gate: Projection, up: Projection, down: Projection, activation: str) -> Tensor:
    """down(activation(gate(x)) · up(x)): [..., K] → [..., K].

    Args:
        activation: one of `ACTIVATIONS`.
    Source: Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202, eq. 5.
    """
    scales = gate.scale, up.scale, down.scale
    tensors = (*gate.tensors, *up.tensors, *down.tensors)
    return _GatedMLP.apply(inputs, *tensors, scales, activation, source_of(inputs))


def linear_reference(inputs: Tensor, projection: Projection) -> Tensor:
    """The same as `linear`, as PEFT writes it."""
    result = F.linear(inputs, projection.weight, projection.bias)
    if projection.down is None or projection.up is None:
        return result
    return result + F.linear(F.linear(inputs, projection.down), projection.up) * projection.scale


def gated_mlp_reference(inputs: Tensor, gate: Projection, up: Projection, down: Projection, activation: str) -> Tensor:
    """The same as `gated_mlp`, as transformers writes it."""
    acted = ACTIVATIONS[activation][0](linear_reference(inputs, gate))
    return linear_reference(acted * linear_reference(inputs, up), down)


_Forward = Callable[[Tensor], Tensor]
_Backward = Callable[[Tensor, Tensor], Tensor]

ACTIVATIONS: dict[str, tuple[_Forward, _Backward]] = {
    "silu": (F.silu, torch.ops.aten.silu_backward),
    "gelu": (F.gelu, torch.ops.aten.gelu_backward),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda slope, x: torch.ops.aten.gelu_backward(slope, x, approximate="tanh"),
    ),
    "relu": (F.relu, lambda slope, x: slope * (x > 0)),
}
"""Of each activation the value, x → y, and the slope: (d loss / d y, x) → d loss / d x."""


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor | None,
        up: Tensor | None,
        scale: float,
        source: Source | None,
    ) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs, narrow = _project(rows, weight, bias, down, up, scale)
        ctx.save_for_backward(*_kept(ctx, inputs, source), weight, down, up, narrow)
        ctx.scale = scale
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *kept, weight, down, up, narrow = ctx.saved_tensors
        inputs = _read(ctx, kept)
        slope = grad_outputs[0].reshape(-1, weight.shape[0])
        rows = inputs.reshape(-1, inputs.shape[-1])
        needs = ctx.needs_input_grad
        own = _own_gradients(slope, rows, narrow, down, up, ctx.scale, needs[1:5])
        back = _backward(slope, weight, own.narrow, down, ctx.scale) if needs[0] else None
        return (back.view_as(inputs) if back is not None else None, *own.tensors, None, None)


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *rest: Any) -> Tensor:
        *tensors, scales, activation, source = rest
        gate: Tensors = tuple(tensors[:4])
        up: Tensors = tuple(tensors[4:8])
        down: Tensors = tuple(tensors[8:])
        rows = inputs.reshape(-1, inputs.shape[-1])
        gated, gate_narrow = _project(rows, *gate, scales[0])
        raised, up_narrow = _project(rows, *up, scales[1])
        outputs, down_narrow = _project(_gate(gated, raised, activation), *down, scales[2])
        narrow = gate_narrow, up_narrow, down_narrow
        # Biases are not needed to go back.
        kept = [tensor for part in (gate, up, down) for tensor in (part[0], part[2], part[3])]
        ctx.save_for_backward(gated, raised, *narrow, *kept, *_kept(ctx, inputs, source))
        ctx.scales, ctx.activation = scales, activation
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gated, raised, gate_narrow, up_narrow, down_narrow, *kept = ctx.saved_tensors
        (gate, gate_a, gate_b), (up, up_a, up_b), (down, down_a, down_b) = kept[:3], kept[3:6], kept[6:9]
        inputs = _read(ctx, kept[9:])
        scales, needs = ctx.scales, ctx.needs_input_grad
        slope = grad_outputs[0].reshape(-1, down.shape[0])
        rows = inputs.reshape(-1, inputs.shape[-1])
        back_narrow = None if down_b is None else slope @ down_b  # [T, r]
        inner = _backward(slope, down, back_narrow, down_a, scales[2])  # [T, N], of what the last layer read
        up_slope, gate_slope, wide = _gate_back(inner, gated, raised, ctx.activation, needs[9] or needs[11])
        last = _own_gradients(slope, wide, down_narrow, down_a, down_b, scales[2], needs[9:13], back_narrow)
        del wide, slope, inner
        second = _own_gradients(up_slope, rows, up_narrow, up_a, up_b, scales[1], needs[5:9])
        first = _own_gradients(gate_slope, rows, gate_narrow, gate_a, gate_b, scales[0], needs[1:5])
        back = None
        if needs[0]:
            back = _backward(up_slope, up, second.narrow, up_a, scales[1])
            back = _backward(gate_slope, gate, first.narrow, gate_a, scales[0], onto=back).view_as(inputs)
        return (back, *first.tensors, *second.tensors, *last.tensors, None, None, None)


def _gate(gated: Tensor, raised: Tensor, activation: str) -> Tensor:
    """activation(gated) · raised, [T, N]."""
    if elementwise.takes(gated, raised):
        return elementwise.gate(gated, raised, activation)
    return ACTIVATIONS[activation][0](gated).mul_(raised)


def _gate_back(
    slope: Tensor, gated: Tensor, raised: Tensor, activation: str, want_product: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """d loss / d raised and / d gated, and the product again where it is wanted; the slope, [T, N], is written over."""
    if elementwise.takes(slope, gated, raised):
        return elementwise.gate_back(slope, gated, raised, activation, want_product=want_product)
    act, act_backward = ACTIVATIONS[activation]
    acted = act(gated)  # computed again
    product = acted * raised if want_product else None
    return acted.mul_(slope), act_backward(slope.mul_(raised), gated), product


def _kept(ctx: Any, inputs: Tensor, source: Source | None) -> tuple[Tensor, ...]:
    """What is kept of the inputs: themselves, or what they can be made from again and is kept by the norm as well."""
    ctx.offset = None if source is None else source.offset
    return (inputs,) if source is None else (source.inputs, source.inverse, source.weight)


def _read(ctx: Any, kept: Sequence[Tensor]) -> Tensor:
    if ctx.offset is None:
        return kept[0]
    inputs, inverse, weight = kept
    return normed_again(Source(inputs, inverse, weight, ctx.offset))


def _project(
    rows: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor | None, up: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """[T, K] → [T, N], and x A^T, [T, r], which the backward pass reads."""
    outputs = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
    if down is None or up is None:
        return outputs, None
    narrow = rows @ down.T
    return outputs.addmm_(narrow, up.T, alpha=scale), narrow


@dataclass(frozen=True, slots=True)
class _Own:
    """Gradients of a projection's own tensors, and d loss / d (x A^T) without the scale, [T, r]."""

    tensors: tuple[Tensor | None, ...]
    narrow: Tensor | None


def _own_gradients(
    slope: Tensor,
    rows: Tensor | None,
    narrow: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    scale: float,
    needs: tuple[bool, ...],
    back: Tensor | None = None,
) -> _Own:
    """From d loss / d outputs, [T, N], and the inputs, [T, K]; `needs` in the order of `Projection.tensors`.

    `back` is `_Own.narrow`, where it is there already.
    """
    weight_grad = slope.T @ rows if needs[0] and rows is not None else None
    bias_grad = slope.sum(0) if needs[1] else None
    if down is None or up is None or narrow is None:
        return _Own((weight_grad, bias_grad, None, None), None)
    back = slope @ up if back is None else back  # [T, r]
    down_grad = (back.T @ rows).mul_(scale) if needs[2] and rows is not None else None
    # Not slope.T @ narrow: with r columns that product takes twice the time.
    up_grad = (narrow.T @ slope).mul_(scale).T if needs[3] else None
    return _Own((weight_grad, bias_grad, down_grad, up_grad), back)


def _backward(
    slope: Tensor, weight: Tensor, narrow: Tensor | None, down: Tensor | None, scale: float, onto: Tensor | None = None
) -> Tensor:
    """d loss / d inputs, [T, K], added to `onto` where it is given."""
    grad = slope @ weight if onto is None else onto.addmm_(slope, weight)
    return grad if narrow is None or down is None else grad.addmm_(narrow, down, alpha=scale)
