"""Layers of a loaded model that compute with the kernels of this toolkit instead of their own formulas.

A layer is changed only where it is known by what it is made of, and only after it was tried: on made-up numbers the
kernel must give what the layer itself gives. Whatever else a call needs (an adapter that is switched off, several
adapters at once, dropout, autocast) is decided at the call; the layer's own code runs where the kernel does not do it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from burnish.kernels.projections import ACTIVATIONS, Projection, gated_mlp, linear
from burnish.kernels.rms_norm import rms_norm
from burnish.model.rotations import fused_rotations

_MLP_PARTS = ("gate_proj", "up_proj", "down_proj")


@contextmanager
def fused_layers(model: nn.Module) -> Iterator[dict[str, int]]:
    """While the block runs, the model's norms, gated MLPs, LoRA layers and rotary embeddings use the kernels.

    Yields:
        How many layers of each kind do: norm, mlp, lora, rotary.
    """
    changed: list[nn.Module] = []
    kinds: Counter[str] = Counter()
    tried: dict[Any, Callable[..., Any] | None] = {}
    for module in model.modules():
        if "forward" in vars(module):  # somebody changed this layer already
            continue
        for kind, make in _KINDS.items():
            forward = make(module, tried)
            if forward is not None:
                module.forward = MethodType(forward, module)
                changed.append(module)
                kinds[kind] += 1
                break
    try:
        with fused_rotations(model) as turning:
            yield {**kinds, "rotary": turning} if turning else dict(kinds)
    finally:
        for module in changed:
            del module.forward


def describe_fused(kinds: dict[str, int]) -> str:
    """The layers in words: `30 gated MLPs, 61 norms`; empty for none."""
    names = {"mlp": "gated MLPs", "norm": "norms", "lora": "LoRA layers", "rotary": "rotary embeddings"}
    return ", ".join(f"{kinds[kind]} {name}" for kind, name in names.items() if kinds.get(kind))


# -- projections --------------------------------------------------------------------------------------------


def projection_of(module: nn.Module, inputs: Tensor) -> Projection | None:
    """A linear layer's tensors as a call with these inputs uses them; None where there is more to it than a product."""
    if type(module) is nn.Linear:
        return _if_like(inputs, Projection(module.weight, module.bias))
    if not is_lora(module):
        return None
    layer: Any = module
    base: Any = layer.base_layer
    if type(base) is not nn.Linear or is_watched(base):
        return None
    if layer.merged and layer.disable_adapters:  # the layer's own code takes them out again
        return None
    off = layer.merged or layer.disable_adapters
    active = [] if off else [name for name in layer.active_adapters if name in layer.lora_A]
    if not active:
        return _if_like(inputs, Projection(base.weight, base.bias))
    name = active[0]
    down, up, dropout = layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    drops = isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0
    if len(active) > 1 or name in layer.lora_variant or drops or up.bias is not None or is_watched(down, up):
        return None
    return _if_like(inputs, Projection(base.weight, base.bias, down.weight, up.weight, float(layer.scaling[name])))


def _if_like(inputs: Tensor, projection: Projection) -> Projection | None:
    """The projection, where all of it is of the inputs' dtype and here as a whole."""
    here = (each for each in projection.tensors if each is not None)
    return projection if all(each.dtype == inputs.dtype and each.numel() for each in here) else None


def is_lora(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "lora_variant") and hasattr(module, "base_layer")


def is_watched(*modules: nn.Module) -> bool:
    """Whether somebody is called when one of these layers is: calls cannot be left out then."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def _computes_as_stored(inputs: Tensor) -> bool:
    return not torch.is_autocast_enabled(inputs.device.type)


def _lora(module: nn.Module, tried: dict[Any, Any]) -> Callable[..., Any] | None:
    if not is_lora(module) or type(getattr(module, "base_layer", None)) is not nn.Linear:
        return None
    return _lora_forward


def _lora_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    projection = None if args or kwargs or not _computes_as_stored(x) else projection_of(self, x)
    if projection is None:
        return type(self).forward(self, x, *args, **kwargs)
    return linear(x, projection)


# -- gated MLPs ---------------------------------------------------------------------------------------------


def _mlp(module: nn.Module, tried: dict[Any, Any]) -> Callable[..., Any] | None:
    parts = [getattr(module, name, None) for name in _MLP_PARTS]
    children = {name for name, _ in module.named_children()}
    if not all(isinstance(part, nn.Module) for part in parts) or not children <= {*_MLP_PARTS, "act_fn"}:
        return None
    activation = activation_of(getattr(module, "act_fn", None))
    key = (type(module), activation)
    if key not in tried:
        tried[key] = None if activation is None else _as_tried(module, _mlp_forward(activation), parts[0])
    return tried[key]


def _mlp_forward(activation: str) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        found: list[Projection | None] = [None]
        if not args and not kwargs and _computes_as_stored(x):
            parts = [getattr(self, name) for name in _MLP_PARTS]
            found = [None if is_watched(part) else projection_of(part, x) for part in parts]
        ready = [part for part in found if part is not None]
        if len(ready) < len(found):
            return type(self).forward(self, x, *args, **kwargs)
        gate, up, down = ready
        return gated_mlp(x, gate, up, down, activation)

    return forward


def activation_of(function: Any) -> str | None:
    """The kernel's name of an activation, found by what it gives; None for one that it does not know."""
    if not callable(function):
        return None
    with torch.no_grad():
        points = torch.linspace(-4, 4, 33)
        try:
            given = function(points)
        except Exception:  # noqa: BLE001 - whatever it wants, it is not one of ours
            return None
        for name, (known, _) in ACTIVATIONS.items():
            if isinstance(given, Tensor) and torch.allclose(given, known(points), atol=1e-6, rtol=1e-6):
                return name
    return None


# -- norms --------------------------------------------------------------------------------------------------


def norm_of(module: nn.Module, tried: dict[Any, Any]) -> tuple[float, float] | None:
    """The epsilon and the offset of an RMSNorm, as `rms_norm` takes them; None for any other layer.

    Args:
        tried: keeps what was found for a class.
    """
    kind, epsilon = type(module), _epsilon(module)
    if not kind.__name__.endswith("RMSNorm") or epsilon is None:
        return None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1 or list(module.children()):
        return None
    if kind not in tried:
        fits = (offset for offset in (0.0, 1.0) if _as_tried(module, _norm_forward(offset), module))
        tried[kind] = next(fits, None)
    return None if tried[kind] is None else (epsilon, tried[kind])


def _norm(module: nn.Module, tried: dict[Any, Any]) -> Callable[..., Any] | None:
    found = norm_of(module, tried)
    return None if found is None else _norm_forward(found[1])


def _epsilon(module: Any) -> float | None:
    value = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(value) if isinstance(value, int | float) else None


def _norm_forward(offset: float) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not _computes_as_stored(x) or not self.weight.numel():
            return type(self).forward(self, x, *args, **kwargs)
        return rms_norm(x, self.weight, _epsilon(self) or 0.0, offset)

    return forward


def _as_tried(module: Any, forward: Callable[..., Any], shaped: Any) -> Callable[..., Any] | None:
    """The kernel, where it gives what the layer gives, in values and in dtype; else None."""
    weight = getattr(getattr(shaped, "base_layer", shaped), "weight", None)
    if weight is None or weight.is_meta or not weight.is_floating_point():
        return None
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, weight.shape[-1], generator=generator).to(weight.device, weight.dtype)
    training = module.training
    with torch.no_grad():
        module.eval()  # without dropout
        own, ours = type(module).forward(module, inputs), forward(module, inputs)
        module.train(training)
    if not isinstance(own, Tensor) or own.dtype != ours.dtype or own.shape != ours.shape:
        return None
    near = 1e-5 if own.dtype == torch.float32 else 4 * torch.finfo(own.dtype).eps
    size = own.abs().max().item() or 1.0
    return forward if (own - ours).abs().max().item() <= near * size else None


_KINDS: dict[str, Callable[[nn.Module, dict[Any, Any]], Callable[..., Any] | None]] = {
    "mlp": _mlp,
    "lora": _lora,
    "norm": _norm,
}
