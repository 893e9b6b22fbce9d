"""`dataset_info.json` (or .yaml): names to DatasetSpecs, with every key checked.

The file is LLaMA-Factory's. One habit of it is kept on purpose: once an entry has `columns` (or `tags`),
every key that is not listed there is absent, not its default.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.data.readers import READERS, REGISTRY_FILES, check_file, is_pattern
from burnish.data.rows import kind_of
from burnish.data.slices import parse_split
from burnish.data.spec import (
    CHAT_FORMATTINGS,
    COLUMN_NAMES,
    FORMATTINGS,
    NO_COLUMNS,
    NO_TAGS,
    OPENAI_TAGS,
    TAG_NAMES,
    Columns,
    DatasetSpec,
    SourceKind,
    Tags,
    default_columns,
    default_tags,
)
from burnish.data.text import COMPRESSIONS, ending
from burnish.errors import DataError
from burnish.registry import did_you_mean, nearest

_HUB_NAME = re.compile(
    r"(?P<source>(?P<owner>\w[\w.-]*)/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?(?P<parts>(?::[^/]*)*)", re.ASCII
)
_PARTS = re.compile(r":(?![^\[]*\])")
"""What lies between the parts of a hub dataset's name: a colon, but not one inside a slice such as `[:10%]`."""
_SOURCES: tuple[tuple[str, SourceKind], ...] = (
    ("hf_hub_url", "hf_hub"),
    ("ms_hub_url", "ms_hub"),
    ("om_hub_url", "om_hub"),
    ("script_url", "script"),
    ("cloud_file_name", "cloud"),
    ("file_name", "file"),
)
"""Entry key → kind of source; the first one that an entry has is used."""
_ENTRY_TYPES: dict[str, type] = {key: str for key, _ in _SOURCES} | {
    "formatting": str,
    "ranking": bool,
    "subset": str,
    "split": str,
    "folder": str,
    "revision": str,
    "file_sha1": str,
    "num_samples": int,
    "columns": dict,
    "tags": dict,
}


def dataset_names(value: str | Sequence[str]) -> list[str]:
    """The names in a `dataset:` setting: `a,b`, or a list of names."""
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip() for part in parts if part.strip()]


def find_registry(dataset_dir: Path) -> Path | None:
    """The registry file of a folder, or None."""
    return next((dataset_dir / name for name in REGISTRY_FILES if (dataset_dir / name).is_file()), None)


def read_registry(path: Path) -> dict[str, Any]:
    """All entries of a registry file, unchecked. Raises DataError where it is not a table of entries."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".json":
            entries = json.loads(text, object_pairs_hook=lambda pairs: _table(pairs, path))
        else:
            entries = _from_yaml(text, path)
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON: {error.msg}",
            at=f"{path}: line {error.lineno}, column {error.colno}",
            fix="mend the registry; often a comma or a quote is missing just before",
        ) from None
    except UnicodeDecodeError:
        raise DataError("the registry is not UTF-8", at=str(path), fix="save the file as UTF-8") from None
    if not isinstance(entries, dict):
        raise DataError(
            f"the registry is {kind_of(entries)}, not a table of datasets",
            at=str(path),
            fix='write {"my_data": {"file_name": "my_data.jsonl"}}',
        )
    return {str(name): entry for name, entry in entries.items()}


def _table(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DataError(f"the key '{twice}' stands there twice", at=str(path), fix="rename or remove one")
    return table


def _from_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{path}: line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise DataError(f"broken YAML: {getattr(error, 'problem', error)}", at=at) from None


def resolve(name: str, dataset_dir: Path) -> DatasetSpec:
    """The spec of a dataset: an entry of the registry, or a file, folder, pattern or hub dataset named directly.

    A path is looked up from the current folder first, then from `dataset_dir`. What looks like `owner/name` and is no
    path lies on the hub. Such a dataset's formatting is None, which leaves the guess to the first rows.

    Raises:
        DataError: the name is unknown (the nearest ones are named), or its entry is broken.
    """
    registry = find_registry(dataset_dir)
    entries = read_registry(registry) if registry else {}
    if registry and name in entries:
        return parse_entry(name, entries[name], registry)
    for path in (Path(name), dataset_dir / name):
        if path.is_file() or (path.is_dir() and any(mark in name for mark in "/\\.")) or _matches(path):
            return DatasetSpec(name, "file", name, path, formatting=None)
    named_file = ending(Path(name)) in READERS or Path(name).suffix.lower() in COMPRESSIONS
    on_hub = None if named_file else _on_hub(name, dataset_dir)
    if on_hub is not None:
        return on_hub
    if named_file or is_pattern(name):
        first = Path(name).parts[:-1][:1]
        path = Path(name) if first and Path(first[0]).is_dir() else dataset_dir / name
        return DatasetSpec(name, "file", name, path, formatting=None)
    folder = next((path for path in (Path(name), dataset_dir / name) if path.is_dir()), None)
    if folder is not None:
        raise DataError(f"'{name}' is a folder", at=str(folder), fix=f"write '{name}/' to read the files in it")
    if registry is None:
        raise DataError(
            f"unknown dataset '{name}': there is no dataset_info.json",
            at=str(dataset_dir),
            fix="name a .json or .jsonl file or a hub dataset (owner/name), or set dataset_dir to the folder with "
            "dataset_info.json",
        )
    close = nearest(name, entries, 3)
    if len(Path(name).parts) > 1 and not close:
        check_file(Path(name))  # a path without an ending that is known: names the files that are near to it
    fix = "did you mean " + " or ".join(f"'{found}'" for found in close) + "?"
    raise DataError(f"unknown dataset '{name}'", at=str(registry), fix=fix if close else did_you_mean(name, entries))


def _on_hub(name: str, dataset_dir: Path) -> DatasetSpec | None:
    """A dataset of a hub: `owner/name`, with `@revision`, `:split` or `:subset:split` after it."""
    found = _HUB_NAME.fullmatch(name)
    if found is None or any((place / found["owner"]).exists() for place in (Path(), dataset_dir)):
        return None
    parts = _PARTS.split(found["parts"])[1:]
    if not all(parts) or len(parts) > 2:
        raise DataError(
            f"'{name}' names no part of a hub dataset",
            at="dataset",
            fix="write owner/name:split, owner/name:subset:split or owner/name:split[:10%]",
        )
    parse_split(parts[-1] if parts else "train", "dataset")
    return DatasetSpec(
        name=name,
        source_kind="ms_hub" if use_modelscope() else "hf_hub",
        source=found["source"],
        path=None,
        formatting=None,
        subset=parts[0] if len(parts) > 1 else None,
        split=parts[-1] if parts else "train",
        revision=found["revision"],
    )


def _matches(path: Path) -> bool:
    return is_pattern(path) and next(glob.iglob(str(path), recursive=True), None) is not None


def use_modelscope() -> bool:
    """Whether `USE_MODELSCOPE_HUB` asks for ModelScope where a dataset lies on both hubs."""
    return os.environ.get("USE_MODELSCOPE_HUB", "").strip().lower() in ("1", "true", "yes", "on")


def _source(entry: Mapping[str, Any], at: str) -> tuple[str, SourceKind]:
    """The entry's key that says where the data lies, and what kind of place it is."""
    if use_modelscope() and entry.get("ms_hub_url"):
        return "ms_hub_url", "ms_hub"
    found = next(((key, kind) for key, kind in _SOURCES if entry.get(key)), None)
    if found is None:
        raise DataError("the entry names no source", at=at, fix='add "file_name": "my_data.jsonl"')
    return found


def parse_entry(name: str, entry: object, registry: Path) -> DatasetSpec:
    """One entry of the registry as a spec. Raises DataError for a key or value that means nothing."""
    at = f"{registry}: {name}"
    if not isinstance(entry, Mapping):
        raise DataError(f"the entry is {kind_of(entry)}", at=at, fix='write {"file_name": "my_data.jsonl"}')
    _check_keys(entry, _ENTRY_TYPES, at)
    for key, wanted in _ENTRY_TYPES.items():
        _check_type(entry.get(key), wanted, f"{at}.{key}")
    source_key, kind = _source(entry, at)
    formatting = entry.get("formatting") or "alpaca"
    if formatting not in FORMATTINGS:
        fix = did_you_mean(formatting, FORMATTINGS)
        raise DataError(f"unknown formatting '{formatting}'", at=f"{at}.formatting", fix=fix)
    count = entry.get("num_samples")
    if count is not None and count < 1:
        raise DataError(f"num_samples is {count}", at=f"{at}.num_samples", fix="give a count of at least 1")
    ranking = bool(entry.get("ranking"))
    split = entry.get("split") or "train"
    parse_split(split, f"{at}.split")
    local = kind in ("file", "script")
    return DatasetSpec(
        name=name,
        source_kind=kind,
        source=entry[source_key],
        path=registry.parent / entry[source_key] if local else None,
        formatting=formatting,
        columns=_columns(entry.get("columns"), formatting, ranking, at),
        tags=_tags(entry.get("tags"), formatting, at),
        listed=frozenset(f"{part}.{key}" for part in ("columns", "tags") for key in entry.get(part) or ()),
        subset=entry.get("subset"),
        split=split,
        folder=entry.get("folder"),
        revision=entry.get("revision"),
        sha1=entry.get("file_sha1") if kind == "file" else None,
        num_samples=count,
        ranking=ranking,
        entry=at,
    )


def _check_keys(entry: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any], at: str) -> None:
    for key in entry:
        if key not in known:
            raise DataError(f"unknown key '{key}'", at=f"{at}.{key}", fix=did_you_mean(str(key), known))


def _check_type(value: object, wanted: type, at: str) -> None:
    wrong = not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
    if value is not None and wrong:
        name = {str: "text", bool: "true or false", int: "a whole number", dict: "a table"}[wanted]
        raise DataError(f"this must be {name}, not {kind_of(value)}", at=at)


def _listed(given: Mapping[str, Any], known: Sequence[str], at: str) -> dict[str, str]:
    _check_keys(given, known, at)
    for key, value in given.items():
        _check_type(value, str, f"{at}.{key}")
    return {key: value for key, value in given.items() if value}


def _columns(given: Mapping[str, Any] | None, formatting: str, ranking: bool, at: str) -> Columns:
    if given is None:
        return default_columns(formatting, ranking)
    listed = _listed(given, COLUMN_NAMES, f"{at}.columns")
    chat = formatting in CHAT_FORMATTINGS
    asking = "messages" if chat else "prompt"
    history_alone = formatting == "alpaca" and "history" in listed
    whole_pairs = ranking and {"chosen", "rejected"} <= listed.keys()
    if asking not in listed and not history_alone and not whole_pairs:
        raise DataError(
            f"columns does not list '{asking}', which {formatting} data needs",
            at=f"{at}.columns",
            fix=f'add "{asking}": "{getattr(default_columns(formatting), asking)}" '
            "(what columns does not list is absent)",
        )
    if ranking and not chat and "chosen" not in listed and "response" not in listed:
        raise DataError(
            "columns does not list 'chosen', which ranking data needs",
            at=f"{at}.columns",
            fix='add "chosen": "chosen", "rejected": "rejected" (what columns does not list is absent)',
        )
    return Columns(**{**_fields(NO_COLUMNS, COLUMN_NAMES), **listed})


def _tags(given: Mapping[str, Any] | None, formatting: str, at: str) -> Tags:
    if given is None:
        return default_tags(formatting)
    listed = _listed(given, TAG_NAMES, f"{at}.tags")
    if formatting == "openai":
        return Tags(**{**_fields(OPENAI_TAGS, TAG_NAMES), **listed})
    if formatting == "sharegpt":
        for key in ("role_tag", "content_tag", "user_tag", "assistant_tag"):
            if key not in listed:
                raise DataError(
                    f"tags does not list '{key}', which sharegpt data needs",
                    at=f"{at}.tags",
                    fix=f'add "{key}": "{getattr(Tags(), key)}" (what tags does not list is absent)',
                )
    return Tags(**{**_fields(NO_TAGS, TAG_NAMES), **listed})


def _fields(value: Columns | Tags, names: Sequence[str]) -> dict[str, str | None]:
    return {name: getattr(value, name) for name in names}


def describe_registry(dataset_dir: Path) -> list[dict[str, Any]]:
    """Every dataset that a folder's registry names, for `data list`; a broken entry is described, not raised.

    Returns:
        One dict a dataset: `name`, `source`, `format`, `holds`, `bytes` (None where unknown), `exists` (None
        for hubs and clouds), `problem` (None, or what is wrong with the entry).
    """
    registry = find_registry(dataset_dir)
    if registry is None:
        raise DataError(
            "there is no dataset_info.json",
            at=str(dataset_dir),
            fix="set dataset_dir to the folder that has one",
        )
    return [_describe(name, entry, registry) for name, entry in read_registry(registry).items()]


def _describe(name: str, entry: object, registry: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("name", "source", "format", "holds", "bytes", "exists", "problem"))
    row["name"] = name
    try:
        spec = parse_entry(name, entry, registry)
    except DataError as error:
        row["problem"] = error.what
        return row
    prefix = "" if spec.source_kind == "file" else f"{spec.source_kind}:"
    row.update(source=f"{prefix}{spec.source}", format=spec.formatting, holds=spec.holds)
    if spec.path is not None:
        row["exists"] = spec.path.exists() or _matches(spec.path)
        row["bytes"] = _size(spec.path) if row["exists"] else None
    return row


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    found = path.rglob("*") if path.is_dir() else map(Path, glob.iglob(str(path), recursive=True))
    return sum(file.stat().st_size for file in found if file.is_file())
