"""From settings to the model that is trained: load, attach what is trainable, say what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from burnish import log
from burnish.config import Settings
from burnish.errors import ModelError
from burnish.kernels.attention import reason_not_packed
from burnish.model.adapter import attach_lora, count_parameters, embedding_modules
from burnish.model.base import BaseChanges
from burnish.model.freeze import train_layers
from burnish.model.fused import describe_fused, fused_layers
from burnish.model.liger import use_liger
from burnish.model.load import Loaded, load_model, stored_quantization
from burnish.model.loftq import start_from_lost
from burnish.model.noise import upcast_norms
from burnish.model.precision import Precision
from burnish.model.quantize import Quantization, quantization_of
from burnish.model.residual import start_from_weights
from burnish.model.rope import forget_longest_text
from burnish.model.save import without_adapter
from burnish.model.source import ModelSource, trained_over
from burnish.model.vocabulary import NewTokens, extend_tokenizer, grow_embeddings, new_tokens
from burnish.train.origin import hub_arguments


def build_model(settings: Settings, source: ModelSource, precision: Precision, device: torch.device) -> Loaded:
    """Load the model and make the chosen part trainable.

    Adapters of the source (`adapter_name_or_path`, or found in a run folder) are merged, but for the last one, which is
    trained on; with `create_new_adapter`, and for full training, all of them are merged.
    """
    model_settings, tuning = settings.model, settings.tuning
    tokens = new_tokens(
        model_settings.add_tokens, model_settings.add_special_tokens, model_settings.new_special_tokens_config
    )
    quantization = _quantization(settings)
    go_on = bool(source.adapters) and tuning.finetuning_type == "lora" and not tuning.create_new_adapter
    _check_base(settings, source, quantization, go_on)
    torch.manual_seed(settings.training.seed)  # random weights depend on the seed alone
    loaded = load_model(
        source,
        dtype=precision.dtype,
        device=device,
        flash_attn=model_settings.flash_attn,
        trust_remote_code=model_settings.trust_remote_code,
        **hub_arguments(settings),
        merge=bool(source.adapters) and not go_on,
        trainable_adapter=go_on,
        rope=(model_settings.rope_scaling, settings.data.cutoff_len) if model_settings.rope_scaling else None,
        random_weights=model_settings.train_from_scratch,
        quantization=quantization,
        compute_dtype=torch.float16 if precision.mixed == "fp16" else precision.dtype,
        keep_whole=tuning.additional_target,
    )
    new_rows = _add_tokens(loaded, tokens, model_settings.resize_vocab, go_on)
    forget_longest_text(loaded.model)
    if model_settings.upcast_layernorm:
        upcast_norms(loaded.model)
    if model_settings.enable_liger_kernel:
        use_liger(loaded.model)
    log.say(_choose_trained(settings, loaded, new_rows, go_on))
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


def _add_tokens(loaded: Loaded, tokens: NewTokens, resize: bool, go_on: bool) -> list[int]:
    """Add tokens to the tokenizer and rows to the model; returns the rows that have to be trained."""
    new_ids = extend_tokenizer(loaded.tokenizer, tokens)
    known = len(tokens.plain) + len(tokens.special) - len(new_ids)
    if known:
        log.note(f"{known} of the tokens to add are in the tokenizer already")
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    if go_on and (new_ids or (resize and len(loaded.tokenizer) > rows)):
        raise ModelError(
            "an adapter that is trained on cannot get new tokens",
            at="add_tokens" if new_ids else "resize_vocab",
            fix="set create_new_adapter: true, which merges it and begins another one",
        )
    fresh = grow_embeddings(
        loaded.model, loaded.tokenizer, new_ids, tokens.descriptions, resize=resize or bool(new_ids)
    )
    now = loaded.model.get_input_embeddings().weight.shape[0]
    if now != rows:
        loaded.changes |= BaseChanges(rows=now)
    if fresh:
        log.say(f"{_new(fresh)}, the vocabulary has {now} rows" + (f" (it had {rows})" if now != rows else ""))
    elif len(loaded.tokenizer) > rows:
        log.note(
            f"the tokenizer has {len(loaded.tokenizer)} tokens and the model rows for {rows}; "
            "resize_vocab: true makes rows for all"
        )
    return fresh


def _new(rows: list[int]) -> str:
    return f"{len(rows)} new token{'s' * (len(rows) != 1)}"


def _choose_trained(settings: Settings, loaded: Loaded, new_rows: list[int], go_on: bool) -> str:
    """Make the chosen part of the model trainable, and nothing else; returns a line that says which."""
    tuning, model = settings.tuning, loaded.model
    if tuning.finetuning_type == "full":
        model.requires_grad_(True)
        return "full: all weights are trained"
    if tuning.finetuning_type == "freeze":
        tables = [name.rsplit(".", 1)[-1] for name in embedding_modules(model)] if new_rows else []
        trained = train_layers(
            model,
            layers=tuning.freeze_trainable_layers,
            modules=tuning.freeze_trainable_modules,
            extra_modules=tuple(dict.fromkeys([*tuning.freeze_extra_modules, *tables])),
        )
        return f"freeze: {trained}"
    if go_on:
        return f"LoRA: {loaded.source.adapters[-1]} is trained on"
    loaded.model, targets = attach_lora(
        model,
        rank=tuning.lora_rank,
        alpha=tuning.lora_alpha,
        dropout=tuning.lora_dropout,
        targets=tuning.lora_target or ("all",),
        use_rslora=tuning.use_rslora,
        use_dora=tuning.use_dora,
        modules_to_save=tuning.additional_target or (),
        start=tuning.lora_init,
        new_rows=new_rows,
        seed=settings.training.seed,
    )
    kinds = ["DoRA"] * tuning.use_dora + ["rsLoRA"] * tuning.use_rslora
    kinds += [tuning.lora_init] * (tuning.lora_init != "default")
    if tuning.lora_init in ("pissa", "olora"):
        loaded.start = start_from_weights(loaded.model, tuning.lora_init, tuning.pissa_iter)
        log.note(f"the adapter is saved as plain LoRA of rank {2 * tuning.lora_rank} over the original base")
    if tuning.lora_init == "loftq":
        start_from_lost(loaded.model, _whole_weights(settings, loaded))
    kind = f" ({', '.join(kinds)})" if kinds else ""
    parts = [f"LoRA: rank {tuning.lora_rank}{kind} on {', '.join(targets)}"]
    parts += [f"all of {', '.join(tuning.additional_target)}"] if tuning.additional_target else []
    parts += [f"the rows of {_new(new_rows)}"] if new_rows else []
    return " · ".join(parts)


def _whole_weights(settings: Settings, loaded: Loaded) -> Callable[[str], Tensor]:
    """The weights of the layers before they were quantized: the model is read a second time, on the CPU."""
    whole = load_model(
        loaded.source,
        dtype=next(p.dtype for p in loaded.model.parameters() if p.is_floating_point()),
        trust_remote_code=settings.model.trust_remote_code,
        merge=bool(loaded.source.adapters),
        **hub_arguments(settings),
    ).model
    return lambda name: whole.get_submodule(name).weight


def _quantization(settings: Settings) -> Quantization | None:
    """How the settings want the base weights held; None for whole ones."""
    model = settings.model
    return quantization_of(model.quantization_bit, model.quantization_type, model.double_quantization)


def _check_base(settings: Settings, source: ModelSource, quantization: Quantization | None, goes_on: bool) -> None:
    """Refuse to train weights that are quantized on disk; say when an adapter goes on over another kind of base."""
    stored = stored_quantization(source, **hub_arguments(settings))
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


@contextmanager
def own_kernels(
    settings: Settings, model: Any, beside: Sequence[Any], device: torch.device, *, whole: bool
) -> Iterator[None]:
    """In this block the model's layers use Burnish's kernels where that is asked for, or where it was measured.

    Args:
        beside: further models that compute in the same way.
        whole: whether each process holds the whole of the weights that its layers use.
    """
    asked = settings.model.fused_layers
    if asked is False or (asked is None and (device.type != "cpu" or not whole)):
        yield
        return
    if not whole:
        log.note("fused_layers does not work where weights are cut into shards; the layers compute as usual")
        yield
        return
    with ExitStack() as stack:
        known = describe_fused(stack.enter_context(fused_layers(model)))
        for other in beside:
            stack.enter_context(fused_layers(other))
        family = model.config.get_text_config().model_type
        log.say(f"kernels for {known}" if known else f"no kernels for the layers of {family}; they compute as usual")
        yield


def _wants_checkpointing(settings: Settings, device: torch.device) -> bool:
    """As asked; else on accelerators, whose memory is the bottleneck, and not on CPUs, whose speed is."""
    if settings.model.disable_gradient_checkpointing:
        return False
    asked = settings.training.gradient_checkpointing
    return device.type != "cpu" if asked is None else asked
