"""Quantized base models: weights held in 8 or 4 bits that never change, with a LoRA adapter that is trained on top.

Source: Dettmers et al., LLM.int8(), arXiv:2208.07339; Dettmers et al., QLoRA, arXiv:2305.14314.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from burnish.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

WHOLE = 16
"""The number of bits that stands for weights that are not quantized."""

# What transformers needs to load a checkpoint that is quantized already, by its method: packages as pip and as
# Python name them.
_NEEDS = {
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum-quanto": "optimum.quanto"},
    "torchao": {"torchao": "torchao"},
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How base weights are held.

    Attributes:
        bits: 8 (LLM.int8: one scale a row) or 4 (QLoRA: one scale for 64 weights).
        kind: of the 4-bit numbers: nf4 or fp4.
        double: whether the 4-bit scales are quantized as well, to 8 bits.
    """

    bits: int
    kind: str = "nf4"
    double: bool = True

    def __str__(self) -> str:
        if self.bits == 8:
            return "8-bit"
        return f"4-bit {self.kind} (double)" if self.double else f"4-bit {self.kind}"


def quantization_of(bits: int | None, kind: str = "nf4", double: bool = True) -> Quantization | None:
    """What the three settings ask for; None for weights that are not quantized."""
    return None if bits in (None, WHOLE) else Quantization(int(bits), kind, double)


def require_bitsandbytes(feature: str) -> None:
    """Raise MissingExtraError where bitsandbytes is not installed; keep its warnings off the terminal."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(feature, "quant")
    # Each 8-bit layer warns in each evaluation that its inputs are rounded; docs/quantization.md says it once.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def bitsandbytes_config(quantization: Quantization, compute: torch.dtype, skip: Sequence[str]) -> Any:
    """The object with which transformers quantizes while it loads.

    Args:
        compute: number format in which layers multiply.
        skip: names of modules that stay as they are.
    """
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skip) or None)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.kind,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(skip) or None,
    )


def quantize_linear_layers(
    model: Any, quantization: Quantization, *, compute: torch.dtype, device: torch.device | str, skip: Sequence[str]
) -> None:
    """Quantize a loaded model in place and move it to the device, one layer after the other.

    It gives the same weights as quantizing while loading, and serves where that cannot be: adapters have to be merged
    first (into 16-bit weights: what is merged into quantized ones is rounded away), or the file is a GGUF.

    Raises:
        ModelError: the model has no linear layer.
    """
    from torch import nn

    config = bitsandbytes_config(quantization, compute, skip)
    found = [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not model.get_output_embeddings() and not _is_skipped(name, skip)
    ]
    if not found:
        raise ModelError("this model has no linear layer to quantize", at="quantization_bit", fix="leave it out")
    for name, layer in found:
        model.set_submodule(name, _quantized(layer, quantization, compute).to(device))
    model.to(device)
    model.config.quantization_config = config
    model.is_quantized, model.quantization_method = True, config.quant_method
    setattr(model, f"is_loaded_in_{quantization.bits}bit", True)  # what PEFT goes by


def _quantized(layer: nn.Linear, quantization: Quantization, compute: torch.dtype) -> nn.Module:
    """A bitsandbytes layer that will quantize the weights of `layer` when it is moved to its device."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    new: Any
    if quantization.bits == 8:
        new = Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0, device="meta")
        new.weight = Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        options: dict[str, Any] = {"compress_statistics": quantization.double, "quant_type": quantization.kind}
        new = Linear4bit(*shape, compute_dtype=compute, device="meta", **options)
        new.weight = Params4bit(layer.weight.data, requires_grad=False, module=new, **options)
    new.bias = layer.bias
    return new.requires_grad_(False)


def _is_skipped(name: str, skip: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{each}") for each in skip)


def heads(config: Any, *, trust_remote_code: bool = False) -> list[str]:
    """The name of a model's output head, by a model of that config without any weights; empty where it has none."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if head is not None and module is head]


# -- checkpoints that are quantized already ---------------------------------------------------------------------------


def stored_method(location: str, **hub: Any) -> str | None:
    """How the weights of a checkpoint are quantized (gptq, awq, bitsandbytes, …), by its config.json; None: not at all.

    Args:
        hub: revision, cache_dir and token, for a checkpoint on the hub.
    """
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(location, **hub)
    except (OSError, ValueError):
        return None  # loading the model says what is wrong
    stored = config.get("quantization_config") or config.get("compression_config")
    if not stored:
        return None
    bits = stored.get("load_in_4bit") or stored.get("load_in_8bit")
    return str(stored.get("quant_method") or ("bitsandbytes" if bits else "unknown"))


def require_packages(method: str) -> None:
    """Raise MissingExtraError, with what to install, where a kind of stored weights needs packages that are missing."""
    feature = f"a model with {method} weights"
    if method == "bitsandbytes":
        require_bitsandbytes(feature)
    missing = [name for name, module in _NEEDS.get(method, {}).items() if not _is_installed(module)]
    if missing:
        raise MissingExtraError(feature, packages=missing)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package inside one that is missing
        return False


# -- what it holds ----------------------------------------------------------------------------------------------------


def weight_count(parameter: torch.Tensor) -> int:
    """Weights in a parameter; a 4-bit one holds two of them in each byte, and knows its real shape."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def scale_bytes(model: nn.Module) -> int:
    """Bytes of the scales with which quantized weights are read; they are no parameters."""
    total = 0
    for module in model.modules():
        kind = type(module).__name__
        if kind == "Linear4bit":
            state: Any = getattr(module.weight, "quant_state", None)
            tensors = [] if state is None else [state.absmax, *([state.state2.absmax] if state.nested else [])]
        elif kind == "Linear8bitLt":  # the scales move from the weight to the layer's state at the first forward pass
            held: Any = module
            tensors = [held.weight.SCB if getattr(held.weight, "SCB", None) is not None else held.state.SCB]
        else:
            continue
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    return total
