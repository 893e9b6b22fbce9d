"""LoRA that starts from what quantization lost: LoftQ, in its one-step form over a base that is quantized already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from burnish.errors import ModelError
from burnish.model.residual import lora_layers


def start_from_lost(model: Any, whole_weight: Callable[[str], Tensor]) -> None:
    """Set a fresh adapter to the best low-rank approximation of what the quantized weights lack.

    With E = W - Q the model begins as Q + s·BA, nearer to W than Q alone by the r largest singular values of E.

    Args:
        model: a PEFT model with one LoRA adapter over layers that bitsandbytes quantized; others start as they are.
        whole_weight: layer name → its weight [out, in] before it was quantized.
    Raises:
        ModelError: no layer with an adapter is quantized.
    Source: LoftQ, arXiv:2310.08659, eq. 6 and algorithm 1 with one alternation.
    """
    from peft.utils.integrations import dequantize_module_weight

    found = False
    for name, layer in lora_layers(model):
        base = layer.get_base_layer()
        if type(base).__name__ not in ("Linear4bit", "Linear8bitLt"):
            continue
        found = True
        with torch.no_grad():
            held = dequantize_module_weight(base).float()
            lost = whole_weight(name).to(held.device, torch.float32) - held  # [out, in]
            left, values, right = torch.linalg.svd(lost, full_matrices=False)
            rank = layer.r["default"]
            root = (values[:rank] / layer.scaling["default"]).sqrt()  # so that s·B·A is the cut-off sum
            layer.lora_A["default"].weight.copy_(root[:, None] * right[:rank])
            layer.lora_B["default"].weight.copy_(left[:, :rank] * root)
    if not found:
        raise ModelError(
            "no layer with an adapter is quantized, so there is nothing to start from",
            at="lora_init: loftq",
            fix="name quantized layers in lora_target, or use lora_init: default",
        )
