"""Load a model and its tokenizer, with adapters on top or merged in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from burnish.errors import MissingExtraError, ModelError
from burnish.model.quiet import quiet_transformers
from burnish.model.residual import Factors
from burnish.model.save import differing_adapter_names
from burnish.model.source import ModelSource

_FLASH_ATTENTION = {"auto": None, "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}


@dataclass
class Loaded:
    """A model in memory. `stop_ids`: where the model's own generation settings stop.

    `start`: where LoRA's factors started, if that was taken out of the weights (PiSSA, OLoRA).
    """

    model: Any
    tokenizer: Any
    source: ModelSource
    stop_ids: tuple[int, ...]
    merged: tuple[str, ...] = ()  # adapters folded into the weights
    start: Factors | None = None


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
) -> Loaded:
    """Load weights, put adapters on top, move to the device.

    Args:
        dtype: of all weights.
        flash_attn: auto, disabled, sdpa or fa2.
        merge: fold the adapters into the weights (faster to generate from).
        trainable_adapter: leave the last adapter trainable, to go on training it.
    Raises:
        ModelError: the weights cannot be found or read.
        MissingExtraError: flash_attn is fa2 and flash-attn is not installed.
    """
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, **hub)
    attention = _attention(flash_attn, device)
    model = _load_base(source, dtype, attention, revision, cache_dir, trust_remote_code, token)
    merged = []
    for place, adapter in enumerate(source.adapters):
        last = place == len(source.adapters) - 1
        model = _put_adapter(model, adapter, trainable=trainable_adapter and last)
        if not last or merge:
            model = model.merge_and_unload()
            merged.append(adapter)
    model.to(device)
    if not trainable_adapter:
        model.requires_grad_(False)
        model.eval()
    return Loaded(model, tokenizer, source, read_stop_ids(source, **hub), tuple(merged))


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
    revision: str | None,
    cache_dir: str | None,
    trust_remote_code: bool,
    token: str | None,
) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    options: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
    }
    if attention:
        options["attn_implementation"] = attention
    if source.gguf_file:
        options |= {"gguf_file": source.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
        options.pop("use_safetensors")
    elif not source.local:
        options |= _from_hub(source, revision, cache_dir, token)
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(source.location, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _cannot_load("model", source, error) from error
    model.config.use_cache = False
    return model


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
