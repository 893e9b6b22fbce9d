"""What `model_name_or_path` points at: an alias, a folder, a GGUF file, a run folder or a name on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.model import default
from burnish.model.quantize import Quantization, quantization_of
from burnish.model.save import MERGED_FILE
from burnish.registry import nearest

ALIASES: dict[str, Callable[[Callable[[str], None]], Path]] = {default.NAME: default.fetch_default_model}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where weights come from.

    `name`: as the user wrote it. `location`: a folder, or a hub name. `gguf_file`: a file in that folder.
    `adapters`: PEFT folders to put on top, in order. `template`: the template name a run was trained with.
    """

    name: str
    location: str
    gguf_file: str | None = None
    adapters: tuple[str, ...] = ()
    template: str | None = None
    default_system: str | None = None

    @property
    def local(self) -> bool:
        return Path(self.location).is_dir()


def find_model(name: str, say: Callable[[str], None] = lambda _: None) -> ModelSource:
    """Resolve a model name or path.

    Args:
        name: `smollm2-135m-instruct`, a folder with config.json, a .gguf file, a run folder (adapter or full), or
            `owner/name` on the hub.
    Raises:
        ModelError: nothing is there, with the nearest names; or the folder holds no model.
    """
    if name.lower() in ALIASES:
        return ModelSource(name, str(ALIASES[name.lower()](say)))
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return ModelSource(name, str(path.parent), gguf_file=path.name)
        raise ModelError(
            "this file is not a model",
            at=str(path),
            fix="give a model folder (with config.json) or a .gguf file",
        )
    if path.is_dir():
        return _from_folder(name, path, say)
    if _looks_like_hub_name(name) and not _among_runs(path):
        return ModelSource(name, name)
    raise _not_found(name, path)


def _among_runs(path: Path) -> bool:
    """Whether a folder that is not there would lie beside runs: `runs/frist` is a slip and no name on the hub."""
    return path.parent != Path() and any(path.parent.glob("*/run.json"))


def _from_folder(name: str, path: Path, say: Callable[[str], None]) -> ModelSource:
    settings = _trained_with(path)
    template, default_system = settings.get("template"), settings.get("default_system")
    if (path / "tokenizer_config.json").is_file():
        template = None  # the tokenizer saved there carries the text of the template, wherever its file went
    if (path / "adapter_config.json").is_file():
        written = _read_json(path / "adapter_config.json").get("base_model_name_or_path")
        base = settings.get("model_name_or_path")
        for candidate in (written, base):
            if not candidate:
                continue
            try:
                below = find_model(candidate, say)
            except ModelError:
                continue
            adapters = (*below.adapters, *_merged_below(path), str(path))
            return ModelSource(name, below.location, below.gguf_file, adapters, template, default_system)
        raise ModelError(
            f"the base model of this adapter is not there: {written or base}",
            at=str(path / "adapter_config.json"),
            fix="put the base model back, or set model_name_or_path to it and adapter_name_or_path to this folder",
        )
    if (path / "config.json").is_file():
        return ModelSource(name, str(path), template=template, default_system=default_system)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return ModelSource(name, str(path), gguf_file=ggufs[0].name)
    checkpoints = sorted(path.glob("checkpoint-*"))
    fix = "give a folder with config.json, adapter_config.json or one .gguf file"
    if checkpoints:
        fix = f"the run is not finished; its last checkpoint is {checkpoints[-1]}"
    raise ModelError("this folder holds no model", at=str(path), fix=fix)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"this file cannot be read: {error}", at=str(path), fix="restore it from the run") from error


def _merged_below(path: Path) -> list[str]:
    """Adapters that were merged into the base before the one in `path` was trained."""
    file = path / MERGED_FILE
    if not file.is_file():
        return []
    adapters = [str(each) for each in _read_json(file)]
    missing = [each for each in adapters if not Path(each).is_dir()]
    if missing:
        raise ModelError("an adapter below this one is not there", at=missing[0], fix="put it back in its place")
    return adapters


def with_adapters(source: ModelSource, names: Sequence[str], at: str = "adapter_name_or_path") -> ModelSource:
    """A model with further adapters on top, in order, each with those that were merged below it in training.

    The template is that of the last one: of the tokenizer in its folder, or of its run. One that brings neither is
    asked with the template of the model below.

    Args:
        at: the setting that has the names.
    Raises:
        ModelError: a name is no folder with an adapter, or stands there twice.
    """
    adapters = [*source.adapters]
    places = [Path(name).expanduser().resolve() for name in names]
    twice = [name for number, name in enumerate(names) if places[number] in places[:number]]
    if twice:
        raise ModelError(f"the adapter '{twice[0]}' is named twice", at=at, fix="name it once: it is merged once")
    known = {Path(each).resolve() for each in adapters}
    for name in names:
        path = Path(name).expanduser()
        if not (path / "adapter_config.json").is_file():
            raise ModelError(
                f"there is no adapter '{name}'",
                at=at,
                fix="give the folder of a LoRA run, which holds adapter_config.json",
            )
        fresh = [each for each in (*_merged_below(path), str(path)) if Path(each).resolve() not in known]
        adapters += fresh
        known |= {Path(each).resolve() for each in fresh}
    if len(adapters) == len(source.adapters):
        return source
    settings, last = _trained_with(Path(adapters[-1])), Path(adapters[-1])
    carries = (last / "tokenizer_config.json").is_file()
    if not settings and not carries:
        return replace(source, adapters=tuple(adapters))
    template, default_system = None if carries else settings.get("template"), settings.get("default_system")
    return replace(source, adapters=tuple(adapters), template=template, default_system=default_system)


def trained_over(source: ModelSource) -> Quantization | None:
    """How the base was held while a model's last adapter was trained; None for whole weights and without adapters."""
    settings = _trained_with(Path(source.adapters[-1])) if source.adapters else {}
    bits, kind = settings.get("quantization_bit"), settings.get("quantization_type", "nf4")
    return quantization_of(bits, kind, settings.get("double_quantization", True))


def trained_from(source: ModelSource, say: Callable[[str], None] = lambda _: None) -> ModelSource:
    """The model that a tuned one began as: without its last adapter, or the base of a run that trained all weights.

    Raises:
        ModelError: it is not known, or not there any more.
    """
    if source.adapters:
        below = source.adapters[:-1]
        return replace(source, name=below[-1] if below else source.location, adapters=below, template=None)
    settings = {} if source.gguf_file else _trained_with(Path(source.location))
    name = settings.get("model_name_or_path")
    if not name:
        raise ModelError("what this model was tuned from is not known: it is not the folder of a run", at=source.name)
    return with_adapters(find_model(name, say), settings.get("adapter_name_or_path") or ())


def _trained_with(path: Path) -> dict[str, Any]:
    """The settings of the run that wrote a folder, or of the run that a checkpoint lies in; empty without a run."""
    for folder in (path, path.parent):
        record = folder / "run.json"
        if record.is_file():
            try:
                return dict(json.loads(record.read_text(encoding="utf-8")).get("settings", {}))
            except ValueError:
                return {}
    return {}


def _looks_like_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~", "/")) and not set(name) & set(" *?[]")


def _not_found(name: str, path: Path) -> ModelError:
    around = path.parent
    models = (p for p in around.iterdir() if p.is_dir() or p.suffix.lower() == ".gguf") if around.is_dir() else ()
    names = [p.name for p in models]
    close = [str(around / n) if str(around) != "." else n for n in nearest(path.name, names)]
    close += nearest(name.lower(), ALIASES)
    fix = f"did you mean '{close[0]}'? " if close else ""
    return ModelError(
        f"there is no model '{name}'",
        at="model_name_or_path",
        fix=f"{fix}Give a folder, a .gguf file, a hub name such as owner/name, or {default.NAME}",
    )
