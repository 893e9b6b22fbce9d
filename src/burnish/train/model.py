"""From settings to the model that is trained: load, attach what is trainable, say what was done."""

from __future__ import annotations

from typing import Any

import torch

from burnish import log
from burnish.config import Settings
from burnish.errors import ModelError
from burnish.kernels.attention import reason_not_packed
from burnish.model.adapter import attach_lora, count_parameters
from burnish.model.load import Loaded, load_model, stored_quantization
from burnish.model.precision import Precision
from burnish.model.quantize import Quantization, quantization_of
from burnish.model.save import without_adapter
from burnish.model.source import ModelSource, trained_over


def build_model(settings: Settings, source: ModelSource, precision: Precision, device: torch.device) -> Loaded:
    """Load the model and make the chosen part trainable.

    Adapters of the source (`adapter_name_or_path`, or found in a run folder) are merged, but for the last one, which is
    trained on; with `create_new_adapter`, and for full training, all of them are merged.
    """
    model_settings, tuning = settings.model, settings.tuning
    quantization = _quantization(settings)
    go_on = bool(source.adapters) and tuning.finetuning_type == "lora" and not tuning.create_new_adapter
    _check_base(settings, source, quantization, go_on)
    loaded = load_model(
        source,
        dtype=precision.dtype,
        device=device,
        flash_attn=model_settings.flash_attn,
        revision=model_settings.model_revision,
        cache_dir=model_settings.cache_dir,
        trust_remote_code=model_settings.trust_remote_code,
        token=model_settings.hf_hub_token,
        merge=bool(source.adapters) and not go_on,
        trainable_adapter=go_on,
        quantization=quantization,
        compute_dtype=torch.float16 if precision.mixed == "fp16" else precision.dtype,
        keep_whole=tuning.additional_target,
    )
    if tuning.finetuning_type == "full":
        loaded.model.requires_grad_(True)
    elif not go_on:
        loaded.model, targets = attach_lora(
            loaded.model,
            rank=tuning.lora_rank,
            alpha=tuning.lora_alpha,
            dropout=tuning.lora_dropout,
            targets=tuning.lora_target or ("all",),
            use_rslora=tuning.use_rslora,
            use_dora=tuning.use_dora,
            modules_to_save=tuning.additional_target or (),
            seed=settings.training.seed,
        )
        log.say(f"LoRA rank {tuning.lora_rank} on {', '.join(targets)}")
    if loaded.merged:
        log.note(
            f"{', '.join(loaded.merged)} is merged into the base that this run starts from; Burnish finds it again "
            "when it loads the run, other tools need it merged too"
        )
    if _wants_checkpointing(settings, device):
        loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if model_settings.print_param_status:
        for name, parameter in loaded.model.named_parameters():
            log.say(f"{name}  {parameter.dtype}  {'trained' if parameter.requires_grad else 'frozen'}")
    loaded.model.train()
    return loaded


def _quantization(settings: Settings) -> Quantization | None:
    """How the settings want the base weights held; None for whole ones."""
    model = settings.model
    return quantization_of(model.quantization_bit, model.quantization_type, model.double_quantization)


def _check_base(settings: Settings, source: ModelSource, quantization: Quantization | None, goes_on: bool) -> None:
    """Refuse to train weights that are quantized on disk; say when an adapter goes on over another kind of base."""
    model = settings.model
    stored = stored_quantization(
        source, revision=model.model_revision, cache_dir=model.cache_dir, token=model.hf_hub_token
    )
    if stored and settings.tuning.finetuning_type != "lora":
        raise ModelError(
            f"the weights of this model are quantized ({stored}) and cannot be trained themselves",
            at="finetuning_type",
            fix="use finetuning_type: lora, or give the 16-bit model",
        )
    before = trained_over(source)
    if goes_on and before != quantization:
        log.note(f"{source.adapters[-1]} was trained over {_base(before)} and now meets {_base(quantization)}")


def _base(quantization: Quantization | None) -> str:
    return f"a base in {quantization}" if quantization else "a base that is not quantized"


def model_record(settings: Settings, loaded: Loaded, precision: Precision) -> dict[str, Any]:
    """The `model` part of run.json."""
    counts = count_parameters(loaded.model)
    return {
        "name": settings.model.model_name_or_path,
        "method": "LoRA" if settings.tuning.finetuning_type == "lora" else settings.tuning.finetuning_type,
        "parameters": counts.total,
        "trainable": counts.trainable,
        "dtype": precision.name,
        "quantization": loaded.quantization,
        "footprint_mb": round(counts.footprint_mb, 1),
    }


def takes_packed_rows(model: Any) -> bool:
    """True when the model can train on padding-free rows; otherwise says why it trains on padded ones."""
    reason = reason_not_packed(without_adapter(model))
    if reason:
        log.note(f"training on padded batches: {reason}")
    return reason is None


def _wants_checkpointing(settings: Settings, device: torch.device) -> bool:
    """As asked; else on accelerators, whose memory is the bottleneck, and not on CPUs, whose speed is."""
    if settings.model.disable_gradient_checkpointing:
        return False
    asked = settings.training.gradient_checkpointing
    return device.type != "cpu" if asked is None else asked
