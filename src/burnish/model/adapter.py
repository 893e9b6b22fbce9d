"""What is trained: all weights, or LoRA adapters on the linear layers that are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.errors import ModelError
from burnish.model.quantize import scale_bytes, weight_count
from burnish.model.quiet import quiet_transformers
from burnish.registry import did_you_mean

# Linear layers that are no nn.Linear: bitsandbytes', what all GPTQ and AWQ layers of gptqmodel derive from, and
# GPT-2's, which is written as a convolution.
_OTHER_LINEAR = {"Linear4bit", "Linear8bitLt", "BaseQuantLinear", "Conv1D"}


@dataclass(frozen=True)
class TrainableCount:
    """Parameters of a model, how many of them are trained, and the memory of all weights in MB (10^6 bytes)."""

    total: int
    trainable: int
    footprint_mb: float

    @property
    def share(self) -> float:
        return self.trainable / max(self.total, 1)


def linear_layer_names(model: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers, without the output head, sorted: what `lora_target: all` means.

    For Llama: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj.
    """
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    names = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is not head and _is_linear(module)
    }
    return sorted(name for name in names if name not in ("lm_head", "score"))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or any(kind.__name__ in _OTHER_LINEAR for kind in type(module).__mro__)


def attach_lora(
    model: Any,
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = ("all",),
    use_rslora: bool = False,
    use_dora: bool = False,
    modules_to_save: Sequence[str] = (),
    seed: int = 42,
) -> tuple[Any, list[str]]:
    """Put fresh LoRA adapters on a model and freeze the rest.

    Args:
        rank: of the two factors.  alpha: scale numerator, None for 2 × rank.
        targets: `("all",)` for every linear layer but the head, or layer names.
        modules_to_save: further modules trained whole.
    Returns:
        The PEFT model and the layer names that were targeted.
    Raises:
        ModelError: a target names no layer of this model.
    Source: Hu et al., LoRA, arXiv:2106.09685: W + (alpha / rank) B A with B = 0 at the start.
    """
    from peft import LoraConfig, get_peft_model

    found = linear_layer_names(model)
    chosen = found if list(targets) == ["all"] else list(targets)
    if not chosen:
        raise ModelError("this model has no linear layer to put LoRA on", at="lora_target", fix="use full training")
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()} | {n for n, _ in model.named_modules()}
    for key, names in (("lora_target", chosen), ("additional_target", modules_to_save)):
        missing = [name for name in names if name not in known]
        if missing:
            raise ModelError(
                f"this model has no layer '{missing[0]}'",
                at=key,
                fix=f"{did_you_mean(missing[0], known)} Linear layers here: {', '.join(found)}, or all",
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=chosen,
        use_rslora=use_rslora,
        use_dora=use_dora,
        modules_to_save=list(modules_to_save) or None,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)  # the adapter's start depends on the seed alone, not on what ran before
    # Adapters in the model's own dtype: casts at every layer cost a tenth of a step. The optimizer keeps fp32 copies.
    try:
        with quiet_transformers():
            return get_peft_model(model, config, autocast_adapter_dtype=False), chosen
    except ValueError as error:  # a layer of a kind that PEFT has no adapter for
        raise ModelError(
            str(error).splitlines()[0][:300], at="lora_target", fix=f"choose from {', '.join(found)}, or all"
        ) from error


def count_parameters(model: nn.Module) -> TrainableCount:
    """Count weights and bytes; tied weights count once, and the scales of quantized ones count as bytes."""
    total = trainable = 0
    size = scale_bytes(model)
    for parameter in model.parameters():
        total += weight_count(parameter)
        size += parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return TrainableCount(total, trainable, size / 1e6)
