"""Rotary embeddings of a model's layers by the kernel of this toolkit.

Attention layers of transformers call a function of their own module, `apply_rotary_pos_emb`. It is exchanged for one
that uses the kernel where that fits a call, and only after it was tried: on made-up numbers both must give the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from burnish.kernels.rotary import rotary, rotates_natively

_NAME = "apply_rotary_pos_emb"
_SIZE = 64  # of a head in the trial: whole vectors on every machine


@contextmanager
def fused_rotations(model: nn.Module) -> Iterator[int]:
    """While the block runs, layers of the model's family turn queries and keys with the kernel.

    Yields:
        How many layers of the model do.
    """
    layers = [type(module).__module__ for module in model.modules() if type(module).__name__.endswith("Attention")]
    changed: dict[str, Callable[..., Any]] = {}
    for name in dict.fromkeys(layers):
        own = getattr(sys.modules.get(name), _NAME, None)
        if callable(own) and not hasattr(own, "before") and _is_the_usual_one(own):
            changed[name] = own
            setattr(sys.modules[name], _NAME, _replaced(own))
    try:
        yield sum(hasattr(getattr(sys.modules.get(name), _NAME, None), "before") for name in layers)
    finally:
        for name, own in changed.items():
            setattr(sys.modules[name], _NAME, own)


def _replaced(own: Callable[..., Any]) -> Callable[..., Any]:
    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not rotates_natively(q, k, cos, sin):
            return own(q, k, cos, sin, *args, **kwargs)
        return rotary(q, k, cos, sin)

    apply_rotary_pos_emb.before = own  # type: ignore[attr-defined]
    return apply_rotary_pos_emb


def _is_the_usual_one(own: Callable[..., Any]) -> bool:
    """Whether the kernel is there, and gives what a family's own function gives, forward and back."""
    drawn = torch.Generator().manual_seed(0)
    shapes = (1, 3, 5, _SIZE), (1, 1, 5, _SIZE), (1, 5, _SIZE), (1, 5, _SIZE)
    found: list[tuple[Tensor, ...]] = []
    ways: tuple[Callable[..., tuple[Tensor, Tensor]], ...] = rotary, own
    with torch.inference_mode(False), torch.enable_grad():
        query, key, cosines, sines = (torch.randn(shape, generator=drawn) for shape in shapes)
        if not rotates_natively(query, key, cosines, sines):
            return False
        inputs = query.requires_grad_(), key.requires_grad_()
        for function in ways:
            try:
                one, other = function(*inputs, cosines, sines)
                found.append((one, other, *torch.autograd.grad(one.sin().sum() + other.cos().sum(), inputs)))
            except Exception:  # noqa: BLE001 - whatever it wants, it is not the usual one
                return False
    return all(torch.allclose(one, other, atol=1e-5, rtol=1e-5) for one, other in zip(*found, strict=True))
