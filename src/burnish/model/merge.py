"""Fold an adapter into the weights it stands on: in float32, rounded once.

Adding a small change to a 16-bit weight step by step rounds it away bit by bit. So each layer is widened to float32,
changed there, and rounded to its own number format when the change is whole.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


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


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Give all floating-point weights one number format; tables that are computed (rotary ones) keep theirs."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
