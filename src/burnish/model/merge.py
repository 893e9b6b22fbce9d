"""Fold an adapter into the weights it stands on: in float32, rounded once.

Adding a small change to a 16-bit weight step by step rounds it away bit by bit. So each layer is widened to float32,
changed there, and rounded to its own number format when the change is whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from burnish.model.save import is_adapter, without_adapter


def merge_adapter(model: Any) -> Any:
    """The model below a PEFT model, with the adapter added to its weights.

    One layer at a time is held in float32. Weights keep their number format, and tied ones stay tied.

    Args:
        model: a PEFT model over weights that are not quantized.
    Returns:
        The plain model; the PEFT model is of no more use.
    Source: LoRA, arXiv:2106.09685, section 4.1: W + s B A; DoRA, arXiv:2402.09353, eq. 5.
    """
    from peft.tuners.lora import LoraLayer

    for _, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer) and isinstance(layer, nn.Module):
            own = {name: weight.dtype for name, weight in layer.get_base_layer().named_parameters()}
            layer.float()
            layer.merge()
            for name, weight in layer.get_base_layer().named_parameters():
                weight.data = weight.data.to(own[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's word for layers that are merged already
        return model.merge_and_unload()


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of the plain model by name, with the adapter added, one layer after the other.

    The model stays as it is, bit for bit: each layer is copied, and the adapter merged into the copy.

    Args:
        model: a PEFT model over weights that are not quantized, or a plain one.
    Yields:
        Detached tensors in the number format of the plain weights; of tied ones one.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    adapted = is_adapter(model)
    inner = without_adapter(model)
    kinds = (LoraLayer, AuxiliaryTrainingWrapper) if adapted else ()
    layers = {name: layer for name, layer in inner.named_modules() if isinstance(layer, kinds)}
    for name, layer in layers.items():
        if isinstance(layer, AuxiliaryTrainingWrapper):
            whole = layer.modules_to_save[model.active_adapter]
            yield from ((f"{name}.{part}", weight.detach()) for part, weight in whole.named_parameters())
            continue
        own = {part: weight.dtype for part, weight in layer.get_base_layer().named_parameters()}
        copy: Any = deepcopy(layer)
        copy.float()
        copy.merge(adapter_names=[model.active_adapter])
        for part, weight in copy.get_base_layer().named_parameters():
            yield f"{name}.{part}", weight.detach().to(own[part])
    for name, weight in inner.named_parameters():
        if not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, weight.detach()


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give all floating-point weights one number format; tables that are computed (rotary ones) keep theirs."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
