"""LoRA that starts from the weights themselves: PiSSA and OLoRA.

Both take a part B₀A₀ out of each weight W, leave the residual W − sB₀A₀ frozen and train A and B from A₀ and B₀
on. The trained model is W − sB₀A₀ + sBA. An adapter with BA alone fits only that residual, which no other program
has; so what is saved is the difference s(BA − B₀A₀), a plain LoRA of twice the rank over the original W. Its second
halves are A₀ and −B₀, so that a resumed run finds its residual again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from burnish.errors import ModelError

Factors = dict[str, Tensor]
"""A₀ and B₀ by the names under which an adapter's file keeps them."""


def start_from_weights(model: Any, method: str, rounds: int = 16) -> Factors:
    """Set the factors of a fresh adapter from the weights they stand beside and leave the residual in those.

    Args:
        model: a PEFT model with one LoRA adapter.
        method: pissa or olora.
        rounds: of PiSSA's randomized decomposition, which draws from torch's generator; -1: the exact one.
    Returns:
        The starting factors, in the adapter's own number format.
    Raises:
        ModelError: a weight is quantized, or smaller than the rank.
    Source: PiSSA, arXiv:2404.02948, eqs. 2-4: the r largest singular values and vectors. OLoRA, arXiv:2406.01775:
        the first r columns and rows of a QR decomposition.
    """
    for name, layer in lora_layers(model):
        weight = _weight(name, layer, method)  # [out, in] float32
        rank = layer.r["default"]
        if rank > min(weight.shape):
            raise ModelError(
                f"rank {rank} is more than {name} has: its weight is {weight.shape[0]} × {weight.shape[1]}",
                at=f"lora_init: {method}",
                fix=f"set lora_rank to {min(weight.shape)} or less, or leave such layers out of lora_target",
            )
        scaling, size = layer.scaling["default"], weight.norm(dim=1)  # the size of each row, before the change
        a, b = _pissa(weight, rank, rounds, scaling) if method == "pissa" else _olora(weight, rank)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
            _add(layer, -scaling)
            if "default" in layer.lora_magnitude_vector:  # DoRA: that of W itself, which is residual + sB₀A₀
                magnitude = layer.lora_magnitude_vector["default"].weight
                magnitude.copy_(size.reshape(magnitude.shape))
    return factors(model)


def factors(model: Any) -> Factors:
    """Copies of all A and B of a model, by the names in an adapter's file."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in state.items() if _side(name)}


def as_plain_lora(state: Mapping[str, Tensor], start: Factors) -> dict[str, Tensor]:
    """An adapter over the residual as one of twice the rank over the original weights: [A; A₀] and [B, −B₀]."""
    plain = dict(state)
    for name, first in start.items():
        if name not in state or state[name].ndim != first.ndim:  # a rehearsal of saving has single numbers
            continue
        first = first.to(state[name].device)
        dim = 0 if _side(name) == "A" else 1
        plain[name] = torch.cat([state[name], first if dim == 0 else -first], dim=dim).contiguous()
    return plain


def plain_config(config: Any) -> dict[str, Any]:
    """What changes in a LoRA config with twice the rank at the same scale."""
    alpha = config.lora_alpha * (math.sqrt(2) if config.use_rslora else 2)
    return {"r": 2 * config.r, "lora_alpha": alpha}


def take_up(model: Any, saved: Mapping[str, Tensor], start: Factors) -> tuple[dict[str, Tensor], Factors]:
    """Split a saved adapter into what was trained and where it started, and give the model the residual of that start.

    On one kind of machine a resumed run decomposes the weights to the same bits, and the residual stays as it is.

    Args:
        model: built like the run that saved, with its own `start` taken out of the weights.
    Returns:
        The tensors to load into the adapter, and the saved start.
    """
    trained, begun = dict(saved), dict(start)
    for name, own in start.items():
        if name not in saved:
            continue
        dim = 0 if _side(name) == "A" else 1
        first, second = saved[name].tensor_split([own.shape[dim]], dim=dim)
        trained[name], begun[name] = first.contiguous(), (second if dim == 0 else -second).contiguous()
    if any(begun[name].shape != own.shape for name, own in start.items()):
        raise ValueError("the adapter was not saved by a run of this lora_init and lora_rank")
    if any(not torch.equal(begun[name].to(own), own) for name, own in start.items()):
        for change, held in ((1.0, start), (-1.0, begun)):  # the original weights, then what that start leaves of them
            _set_factors(model, held)
            for _, layer in lora_layers(model):
                _add(layer, change * layer.scaling["default"])
    return trained, begun


def _pissa(weight: Tensor, rank: int, rounds: int, scaling: float) -> tuple[Tensor, Tensor]:
    if rounds < 0:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        left, values, transposed = torch.svd_lowrank(weight, rank, niter=rounds)
        right = transposed.T
    root = (values / scaling).sqrt()  # [r], so that s·B·A is the cut-off sum
    return root[:, None] * right, left * root


def _olora(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


@torch.no_grad()
def _add(layer: Any, factor: float) -> None:
    """Add factor × BA, as the factors are now, to the frozen weight."""
    weight = layer.get_base_layer().weight
    product = layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()  # [out, in]
    product = product.T if layer.fan_in_fan_out else product
    weight.copy_(weight.float() + factor * product)


def _set_factors(model: Any, named: Factors) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, named)


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module


def _weight(name: str, layer: Any, method: str) -> Tensor:
    weight = getattr(layer.get_base_layer(), "weight", None)
    if weight is None or not weight.is_floating_point() or "default" not in layer.lora_A or weight.ndim != 2:
        raise ModelError(
            f"{name} is quantized or no linear layer, so its weight cannot be decomposed",
            at=f"lora_init: {method}",
            fix="use lora_init: default there",
        )
    weight = weight.detach().float()
    return weight.T if layer.fan_in_fan_out else weight


def _side(name: str) -> str | None:
    return next((side for side in ("A", "B") if f".lora_{side}." in name), None)
