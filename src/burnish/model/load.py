"""Load a model and its tokenizer, with adapters on top or merged in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from burnish.errors import MissingExtraError, ModelError
from burnish.model.base import BaseChanges, read_changes
from burnish.model.compat import correct_quantized_layers, gguf_read_once, import_peft
from burnish.model.merge import cast_weights, merge_adapter
from burnish.model.precision import choose_device, choose_precision
from burnish.model.quantize import (
    Quantization,
    bitsandbytes_config,
    heads,
    quantize_linear_layers,
    require_bitsandbytes,
    require_packages,
    stored_method,
)
from burnish.model.quiet import quiet_transformers
from burnish.model.residual import Factors
from burnish.model.rope import stretched
from burnish.model.save import differing_adapter_names
from burnish.model.source import ModelSource
from burnish.model.vocabulary import rows_for_adapter, set_rows

_FLASH_ATTENTION = {"auto": None, "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}


@dataclass
class Loaded:
    """A model in memory.

    `stop_ids`: where the model's own generation settings stop. `quantization`: how base weights are held, in words.
    `merged`: adapters folded into the weights. `changes`: what the base needs before an adapter is put on.
    `start`: where LoRA's factors started, if that was taken out of the weights (PiSSA, OLoRA).
    """

    model: Any
    tokenizer: Any
    source: ModelSource
    stop_ids: tuple[int, ...]
    merged: tuple[str, ...] = ()
    quantization: str | None = None
    start: Factors | None = None
    changes: BaseChanges = field(default_factory=BaseChanges)


def load_tokenizer(
    source: ModelSource,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> Any:
    """The tokenizer of a model, or of the adapter on top of it, which carries the template it was trained with."""
    from transformers import AutoTokenizer

    location, extra = source.location, _from_hub(source, revision, cache_dir, token)
    if source.adapters and (Path(source.adapters[-1]) / "tokenizer_config.json").is_file():
        location, extra = source.adapters[-1], {}
    elif source.gguf_file:
        extra = {"gguf_file": source.gguf_file}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code, **extra)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("tokenizer", source, error) from error
    if tokenizer.pad_token_id is None:  # padding is masked by length, so any id serves; no row is added
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    flash_attn: str = "auto",
    revision: str | None = None,
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
    token: str | None = None,
    merge: bool = False,
    trainable_adapter: bool = False,
    quantization: Quantization | None = None,
    compute_dtype: torch.dtype | None = None,
    keep_whole: Sequence[str] = (),
    rope: tuple[str, int] | None = None,
    random_weights: bool = False,
) -> Loaded:
    """Load weights, put adapters on top, move to the device.

    Args:
        dtype: of all weights that are not quantized.
        flash_attn: auto, disabled, sdpa or fa2.
        merge: fold the adapters into the weights (faster to generate from). The sums are made in float32 and rounded
            once, also where there are several.
        trainable_adapter: leave the last adapter trainable, to go on training it.
        quantization: of the linear layers below the adapter. Adapters are merged first, while the weights are whole.
        compute_dtype: in which 4-bit layers multiply; None for `dtype`.
        keep_whole: modules that are not quantized, besides the output head.
        rope: stretch rotary positions in this way, for texts of so many tokens.
        random_weights: draw new ones from torch's generator; only the config and the tokenizer are read.
    Raises:
        ModelError: the weights cannot be found or read, are quantized already, or cannot be merged into.
        MissingExtraError: flash-attn, bitsandbytes or what a quantized checkpoint needs is not installed.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    with gguf_read_once() if source.gguf_file else nullcontext():
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, **hub)
        mergers = source.adapters if merge else source.adapters[:-1]
        stored = stored_quantization(source, **hub)
        _check_quantization(quantization, stored, mergers)
        later = quantization if mergers or source.gguf_file else None  # what can only be quantized once it is loaded
        whole = [*keep_whole, *_modules_trained_whole(source.adapters[len(mergers) :])]
        changes = reduce(or_, map(read_changes, source.adapters), BaseChanges())
        config = None
        if rope or changes.config or random_weights:
            config = _load_config(source, changes.config, trust_remote_code, **hub)
            stretch = BaseChanges(config=stretched(config, *rope) if rope else {})
            _set_values(config, stretch.config)
            changes |= stretch
        wide = torch.float32 if len(mergers) > 1 else dtype
        how = _Base(wide, compute_dtype or dtype, _attention(flash_attn, device), trust_remote_code, whole, config)
        place = device if stored or (quantization and not later) else None
        new = random_weights and config is not None
        model = _new_model(how) if new else _load_base(source, how, None if later else quantization, place, **hub)
    for adapter in mergers:
        changes |= _fit_rows(model, adapter)
        model = merge_adapter(put_adapter(model, adapter, trainable=False, wide=True))
    if wide != dtype:
        cast_weights(model, dtype)
    if later:
        quantize_linear_layers(model, later, compute=how.compute, device=device, skip=whole)
    correct_quantized_layers(model)
    if len(mergers) < len(source.adapters):
        changes |= _fit_rows(model, source.adapters[-1])
        model = put_adapter(model, source.adapters[-1], trainable=trainable_adapter)
    if place is None and not later:  # quantized weights are on their device already
        model.to(device)
    if not trainable_adapter:
        model.requires_grad_(False)
        model.eval()
    held = str(quantization) if quantization else stored
    return Loaded(model, tokenizer, source, read_stop_ids(source, **hub), tuple(mergers), held, changes=changes)


def load_for_use(
    source: ModelSource,
    *,
    use_cpu: bool,
    quantization: Quantization | None,
    trust_remote_code: bool,
    dtype: str = "auto",
    **hub: Any,
) -> Loaded:
    """Load a model that only answers or scores.

    Its adapters are merged into whole weights, and stay beside quantized ones.

    Args:
        dtype: float32, bfloat16, float16, or auto for the number format that the machine does well.
        hub: `revision`, `cache_dir` and `token`, for a model on the hub.
    """
    device = choose_device(use_cpu)
    return load_model(
        source,
        dtype=choose_precision(device).dtype if dtype == "auto" else getattr(torch, dtype),
        device=device,
        merge=bool(source.adapters) and not quantization and not stored_quantization(source, **hub),
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        **hub,
    )


def stored_quantization(source: ModelSource, **hub: Any) -> str | None:
    """How a model's weights are quantized on disk (gptq, awq, …); None for whole ones, which a GGUF file's become."""
    return None if source.gguf_file else stored_method(source.location, **_from_hub(source, **hub))


def _modules_trained_whole(adapters: Sequence[str]) -> list[str]:
    """Layers that adapters hold whole, and that therefore fit onto whole ones only."""
    files = [Path(folder) / "adapter_config.json" for folder in adapters]
    return [
        name for file in files if file.is_file() for name in json.loads(file.read_text()).get("modules_to_save") or ()
    ]


def _check_quantization(asked: Quantization | None, stored: str | None, mergers: Sequence[str]) -> None:
    if stored and asked:
        raise ModelError(
            f"the weights of this model are quantized already ({stored})",
            at="quantization_bit",
            fix="leave quantization_bit out, or give the 16-bit model",
        )
    if stored and mergers:
        raise ModelError(
            f"an adapter cannot be merged into weights that are quantized ({stored})",
            at=mergers[0],
            fix="give the 16-bit model as model_name_or_path",
        )
    if stored:
        require_packages(stored)
    if asked:
        require_bitsandbytes(f"quantization_bit: {asked.bits}")


@dataclass(frozen=True)
class _Base:
    """How base weights are read: `compute` is the number format in which 4-bit layers multiply."""

    dtype: torch.dtype
    compute: torch.dtype
    attention: str | None
    trust_remote_code: bool
    keep_whole: Sequence[str]
    config: Any = None  # the model's own, where values of it are changed


def _attention(flash_attn: str, device: torch.device | str) -> str | None:
    chosen = _FLASH_ATTENTION[flash_attn]
    if chosen == "flash_attention_2":
        if torch.device(device).type != "cuda":
            raise ModelError("flash_attn: fa2 needs an NVIDIA GPU", at="flash_attn", fix="set flash_attn: auto")
        try:
            import flash_attn as _  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("flash_attn: fa2", packages=["flash-attn"]) from error
    return chosen


def _load_base(
    source: ModelSource, how: _Base, quantization: Quantization | None, device: torch.device | str | None, **hub: Any
) -> Any:
    """The base model. `device`: where quantized weights go while they are read; None reads whole ones on the CPU."""
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

    options: dict[str, Any] = {
        "dtype": how.dtype,
        "trust_remote_code": how.trust_remote_code,
        "use_safetensors": True,
    }
    if how.attention:
        options["attn_implementation"] = how.attention
    if source.gguf_file:
        options |= {"gguf_file": source.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
        options.pop("use_safetensors")
    options |= _from_hub(source, **hub)
    if how.config is not None:
        options["config"] = how.config
    if device is not None:
        options["device_map"] = {"": device}
    unreadable: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError, SafetensorError)
    if device is not None:  # transformers' word for hardware that a kind of quantization needs
        unreadable += (RuntimeError,)
    try:
        with quiet_transformers():
            if quantization:
                skip: list[str] = []  # by itself transformers leaves the head whole, but not beside other names
                if how.keep_whole:
                    code = {"trust_remote_code": how.trust_remote_code}
                    config = AutoConfig.from_pretrained(source.location, **code, **_from_hub(source, **hub))
                    skip = [*how.keep_whole, *heads(config, **code)]
                options["quantization_config"] = bitsandbytes_config(quantization, how.compute, skip)
            model = AutoModelForCausalLM.from_pretrained(source.location, **options)
    except unreadable as error:
        raise _cannot_load("model", source, error) from error
    model.config.use_cache = False
    return model


def _load_config(source: ModelSource, values: dict[str, Any], trust_remote_code: bool, **hub: Any) -> Any:
    """The model's config with some values changed."""
    from transformers import AutoConfig

    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        with quiet_transformers():
            where = {**_from_hub(source, **hub), **gguf}
            config = AutoConfig.from_pretrained(source.location, trust_remote_code=trust_remote_code, **where)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("model", source, error) from error
    _set_values(config, values)
    return config


def _set_values(config: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        setattr(config.get_text_config(), key, value)


def _new_model(how: _Base) -> Any:
    """A model with random weights, drawn in float32: a number format does not change which ones a seed gives."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": how.attention} if how.attention else {}
    with quiet_transformers():
        model = AutoModelForCausalLM.from_config(how.config, trust_remote_code=how.trust_remote_code, **options)
    model.config.use_cache = False
    return model.to(how.dtype)


def _fit_rows(model: Any, adapter: str) -> BaseChanges:
    """Give the base the rows that an adapter needs."""
    rows = rows_for_adapter(model, adapter)
    if rows:
        set_rows(model, rows)
    return BaseChanges(rows=rows)


def put_adapter(model: Any, folder: str, *, trainable: bool, name: str = "default", wide: bool = False) -> Any:
    """A model with a saved adapter on top, in the model's number format; PEFT knows it by `name`.

    `wide`: the adapter in float32, to be merged. Raises ModelError where it does not fit.
    """
    import_peft()
    from peft import PeftModel

    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():  # PEFT would fall back to a pickle
        raise ModelError("there is no adapter_model.safetensors", at=folder, fix="give the folder of a finished run")
    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(
                model, folder, adapter_name=name, is_trainable=trainable, autocast_adapter_dtype=wide
            )
            differing = differing_adapter_names(adapted, file, name)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        differing = [(str(error).strip() or type(error).__name__).splitlines()[0]]
    if differing:
        raise ModelError(
            f"the adapter does not fit this model: {differing[0][:300]}",
            at=folder,
            fix="check that model_name_or_path is the base the adapter was trained on",
        )
    return adapted


def _from_hub(
    source: ModelSource, revision: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """Arguments that every download of one model shares, so that none of its files comes from another revision."""
    if source.local:
        return {}
    return {"revision": revision or "main", "cache_dir": cache_dir, "token": token}


def read_stop_ids(
    source: ModelSource, *, revision: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> tuple[int, ...]:
    """The ids at which the model's own generation settings stop; empty where it has none. Reads no weights."""
    from transformers import GenerationConfig

    try:
        with quiet_transformers():
            hub = _from_hub(source, revision, cache_dir, token)
            ids = GenerationConfig.from_pretrained(source.location, **hub).eos_token_id
    except (OSError, ValueError):
        return ()
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)


def _cannot_load(what: str, source: ModelSource, error: Exception) -> ModelError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    fix = "check the folder: it needs config.json, safetensors weights and tokenizer files"
    if not source.local:
        fix = "check the name and your connection; for a mirror set HF_ENDPOINT, for a private model hf_hub_token"
    return ModelError(f"the {what} '{source.name}' cannot be loaded: {first[:300]}", at="model_name_or_path", fix=fix)
