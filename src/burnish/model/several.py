"""Several adapters beside each other on one base, of which one at a time answers, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.model.base import BaseChanges, read_changes
from burnish.model.load import put_adapter
from burnish.model.quiet import quiet_transformers
from burnish.model.save import differing_adapter_names
from burnish.model.source import ModelSource


def put_adapters(model: Any, base: ModelSource, runs: Mapping[str, ModelSource]) -> tuple[Any, Callable[[str], None]]:
    """Put adapters on a base, unmerged.

    Args:
        model: the base, on its device.
        base: where it came from.
        runs: the adapters by name, at least one.
    Returns:
        The model with all of them, and what switches to one by its name; "" is the base alone, as it is at first.
    Raises:
        ModelError: one was trained on another base, or on a changed one, or does not fit.
    """
    folders = {name: _folder(name, base, run) for name, run in runs.items()}
    inner = {name: f"adapter_{place}" for place, name in enumerate(folders)}  # PEFT's names may hold no dots
    adapted: Any = None
    for name, folder in folders.items():
        if adapted is None:
            adapted = put_adapter(model, folder, trainable=False, name=inner[name])
        else:
            _load_beside(adapted, folder, inner[name])
    adapted.requires_grad_(False).eval()
    active: str | None = None

    def activate(name: str) -> None:
        nonlocal active
        if name == active:
            return
        if name:
            adapted.base_model.enable_adapter_layers()
            adapted.base_model.set_adapter(inner[name], inference_mode=True)
        else:
            adapted.base_model.disable_adapter_layers()
        active = name

    activate("")
    return adapted, activate


def _folder(name: str, base: ModelSource, run: ModelSource) -> str:
    """The folder of a run's adapter, where it can stand beside others."""
    alone = "serve that run by itself"
    if not run.adapters:
        raise ModelError(f"there is no adapter for '{name}', but whole weights", at=run.name, fix=alone)
    if len(run.adapters) > 1:
        raise ModelError(f"'{name}' stands on another adapter, which is merged into its base", at=run.name, fix=alone)
    if _place(run) != _place(base):
        raise ModelError(
            f"'{name}' was trained on another base: {run.location}", at=run.name, fix=f"give adapters of {base.name}"
        )
    if read_changes(run.adapters[0]) != BaseChanges():
        raise ModelError(f"'{name}' changes its base (new tokens or positions)", at=run.name, fix=alone)
    return run.adapters[0]


def _place(source: ModelSource) -> tuple[str, str | None]:
    return str(Path(source.location).resolve()) if source.local else source.location, source.gguf_file


def _load_beside(adapted: Any, folder: str, name: str) -> None:
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():  # PEFT would fall back to a pickle
        raise ModelError("there is no adapter_model.safetensors", at=folder, fix="give the folder of a finished run")
    try:
        with quiet_transformers():
            adapted.load_adapter(folder, adapter_name=name, is_trainable=False, autocast_adapter_dtype=False)
            differing = differing_adapter_names(adapted, file, name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        differing = [(str(error).strip() or type(error).__name__).splitlines()[0]]
    if differing:
        raise ModelError(f"the adapter does not fit beside the others: {differing[0][:300]}", at=folder,
                         fix="serve that run by itself")  # fmt: skip
