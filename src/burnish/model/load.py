"""Load a model and its tokenizer, with adapters on top or merged in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from burnish.errors import MissingExtraError, ModelError
from burnish.model.base import BaseChanges, read_changes
from burnish.model.quiet import quiet_transformers
from burnish.model.residual import Factors
from burnish.model.rope import stretched
from burnish.model.save import differing_adapter_names
from burnish.model.source import ModelSource
from burnish.model.vocabulary import rows_for_adapter, set_rows

_FLASH_ATTENTION = {"auto": None, "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}


@dataclass
class Loaded:
    """A model in memory. `stop_ids`: where the model's own generation settings stop.

    `merged`: adapters folded into the weights. `changes`: what the base needs before an adapter is put on.
    `start`: where LoRA's factors started, if that was taken out of the weights (PiSSA, OLoRA).
    """

    model: Any
    tokenizer: Any
    source: ModelSource
    stop_ids: tuple[int, ...]
    merged: tuple[str, ...] = ()
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
    rope: tuple[str, int] | None = None,
    random_weights: bool = False,
) -> Loaded:
    """Load weights, put adapters on top, move to the device.

    Args:
        dtype: of all weights.
        flash_attn: auto, disabled, sdpa or fa2.
        merge: fold the adapters into the weights (faster to generate from).
        trainable_adapter: leave the last adapter trainable, to go on training it.
        rope: stretch rotary positions in this way, for texts of so many tokens.
        random_weights: draw new ones from torch's generator; only the config and the tokenizer are read.
    Raises:
        ModelError: the weights cannot be found or read.
        MissingExtraError: flash_attn is fa2 and flash-attn is not installed.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, **hub)
    attention = _attention(flash_attn, device)
    changes = reduce(or_, map(read_changes, source.adapters), BaseChanges())
    where = {"trust_remote_code": trust_remote_code, **_from_hub(source, **hub)}
    config = None
    if rope or changes.config or random_weights:
        config = _load_config(source, where, changes.config)
        stretch = stretched(config, *rope) if rope else {}
        changes |= BaseChanges(config=stretch)
        _set_values(config, stretch)
    if random_weights:
        model = _new_model(config, dtype, attention, trust_remote_code)
    else:
        model = _load_base(source, dtype, attention, where, config)
    merged = []
    for place, adapter in enumerate(source.adapters):
        last = place == len(source.adapters) - 1
        rows = rows_for_adapter(model, adapter)
        if rows:
            set_rows(model, rows)
            changes |= BaseChanges(rows=rows)
        model = _put_adapter(model, adapter, trainable=trainable_adapter and last)
        if not last or merge:
            model = model.merge_and_unload()
            merged.append(adapter)
    model.to(device)
    if not trainable_adapter:
        model.requires_grad_(False)
        model.eval()
    return Loaded(model, tokenizer, source, read_stop_ids(source, **hub), tuple(merged), changes=changes)


def _attention(flash_attn: str, device: torch.device | str) -> str | None:
    chosen = _FLASH_ATTENTION[flash_attn]
    if chosen == "flash_attention_2":
        if torch.device(device).type != "cuda":
            raise ModelError("flash_attn: fa2 needs an NVIDIA GPU", at="flash_attn", fix="set flash_attn: auto")
        try:
            import flash_attn as _  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("flash_attn: fa2", "flash-attn") from error
    return chosen


def _load_base(
    source: ModelSource,
    dtype: torch.dtype,
    attention: str | None,
    where: dict[str, Any],
    config: Any = None,
) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **where}
    if config is not None:
        options["config"] = config
    if attention:
        options["attn_implementation"] = attention
    if source.gguf_file:
        options |= {"gguf_file": source.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
        options.pop("use_safetensors")
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(source.location, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _cannot_load("model", source, error) from error
    model.config.use_cache = False
    return model


def _load_config(source: ModelSource, where: dict[str, Any], values: dict[str, Any]) -> Any:
    """The model's config with some values changed."""
    from transformers import AutoConfig

    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.location, **where, **gguf)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load("model", source, error) from error
    _set_values(config, values)
    return config


def _set_values(config: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        setattr(config.get_text_config(), key, value)


def _new_model(config: Any, dtype: torch.dtype, attention: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    with quiet_transformers():
        # Drawn in float32 and rounded, so that a number format does not change which weights a seed gives.
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
    model.config.use_cache = False
    return model.to(dtype)


def _put_adapter(model: Any, folder: str, *, trainable: bool) -> Any:
    from peft import PeftModel

    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():  # PEFT would fall back to a pickle
        raise ModelError("there is no adapter_model.safetensors", at=folder, fix="give the folder of a finished run")
    try:
        with quiet_transformers():
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable, autocast_adapter_dtype=False)
            differing = differing_adapter_names(adapted, file)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        differing = [(str(error).strip() or type(error).__name__).splitlines()[0]]
    if differing:
        raise ModelError(
            f"the adapter does not fit this model: {differing[0][:300]}",
            at=folder,
            fix="check that model_name_or_path is the base the adapter was trained on",
        )
    return adapted


def _from_hub(source: ModelSource, revision: str | None, cache_dir: str | None, token: str | None) -> dict[str, Any]:
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
