"""Save what was trained so that transformers and PEFT load it without Burnish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.model.base import BaseChanges, write_changes
from burnish.model.quiet import quiet_transformers
from burnish.model.residual import Factors, as_plain_lora, plain_config, take_up


def without_adapter(model: Any) -> Any:
    """The model below PEFT's wrapper (its layers still hold the adapters), or the model itself."""
    return model.get_base_model() if is_adapter(model) else model


def is_adapter(model: Any) -> bool:
    """True for a PEFT model."""
    return hasattr(model, "peft_config")


MERGED_FILE = "burnish_merged.json"
"""Names the adapters that were merged into the base before this one was trained; absent where there were none."""


def load_adapter_weights(model: Any, file: Path, start: Factors | None = None) -> tuple[list[str], Factors | None]:
    """Copy saved adapter tensors into a PEFT model that is built like the one that was saved.

    Args:
        start: where the model's factors started, if that was taken out of its weights.
    Returns:
        What differs in names between the two, and the start that the saved adapter had.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(file)
    if start is not None:
        saved, start = take_up(model, saved, start)
    set_peft_model_state_dict(model, saved)
    return differing_adapter_names(model, file), start


def differing_adapter_names(model: Any, file: Path, name: str = "default") -> list[str]:
    """Tensors that a saved adapter has and a PEFT model has not, or the reverse; PEFT itself is silent about them.

    PEFT may have saved the tables of tokens too, under the names they have in the base; those have a place.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        saved = set(opened.keys())
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    whole = {name for name in saved if ".lora_" not in name} & model.state_dict().keys()
    return [f"'{name}' has no counterpart" for name in sorted((saved ^ own.keys()) - whole)]


def save_weights(
    model: Any,
    folder: Path,
    *,
    base_name: str | None = None,
    merged: Sequence[str] = (),
    start: Factors | None = None,
    changes: BaseChanges | None = None,
    weights: Mapping[str, Any] | None = None,
    shard_gb: float | None = None,
) -> None:
    """Write adapter files (a PEFT model) or full weights, as safetensors.

    Args:
        base_name: what adapter_config.json names as the base model; None keeps what PEFT found.
        start: where the adapter started, if that was taken out of the weights; it is then saved as plain LoRA.
        changes: what has to be done to the base before the adapter is put on.
        merged: adapters that are part of the base's weights by now; an adapter alone cannot tell.
        weights: the tensors by name, for a model that holds only shards of them; by default its own.
        shard_gb: most of a file of full weights, in GB (10^9 bytes); None for transformers' own limit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = {} if weights is None else {"state_dict": dict(weights)}
    with quiet_transformers():
        if is_adapter(model):
            if base_name:
                for config in model.peft_config.values():
                    config.base_model_name_or_path = base_name
            trained = [model.active_adapter]  # not one that is kept to compare with
            model.save_pretrained(
                folder, safe_serialization=True, save_embedding_layers=False, selected_adapters=trained, **own
            )
            if start is not None:
                _save_plain(model, folder, start)
            write_changes(folder, changes or BaseChanges())
            if merged:
                places = [str(Path(each).resolve()) for each in merged]
                (folder / MERGED_FILE).write_text(json.dumps(places, ensure_ascii=False), encoding="utf-8")
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card tells users nothing
        else:
            use_cache, model.config.use_cache = model.config.use_cache, True
            limit = {} if shard_gb is None else {"max_shard_size": int(shard_gb * 1e9)}
            model.save_pretrained(folder, safe_serialization=True, **own, **limit)
            model.config.use_cache = use_cache


def _save_plain(model: Any, folder: Path, start: Factors) -> None:
    """Replace the adapter in a folder, which fits the residual only, by one that fits the original weights."""
    from safetensors.torch import load_file, save_file

    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    save_file(as_plain_lora(load_file(weights), start), weights, metadata={"format": "pt"})
    written = json.loads(config.read_text(encoding="utf-8"))
    written |= plain_config(model.peft_config["default"])
    config.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def mend_generation_config(model: Any) -> str | None:
    """Make the model's generation settings such that transformers agrees to save them; returns what was changed.

    Many published models name a temperature and forget `do_sample`, which transformers loads but refuses to save.

    Raises:
        ModelError: they contradict themselves in another way.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return None
    try:
        config.validate(strict=True)
        return None
    except ValueError as error:
        before, config.do_sample = config.do_sample, True
        try:
            config.validate(strict=True)
        except ValueError:
            config.do_sample = before
            raise ModelError(
                f"the model's generation settings cannot be saved: {error}",
                at="generation_config.json of the model",
                fix="mend or remove that file",
            ) from error
    return "generation_config.json gives sampling settings without do_sample; it is saved with do_sample: true"


def save_tokenizer(tokenizer: Any, folder: Path, chat_template: str | None, terminator_id: int | None) -> None:
    """Write the tokenizer with the template used in training and the end token that answers were trained with."""
    before = tokenizer.chat_template, tokenizer.eos_token
    try:
        tokenizer.chat_template = chat_template
        if terminator_id is not None and tokenizer.eos_token_id != terminator_id:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(terminator_id)
        with quiet_transformers():
            tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template, tokenizer.eos_token = before
