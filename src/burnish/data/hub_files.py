"""Which files of a hub repository make up a subset and split, told from its card or from the names. No network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from burnish.data.readers import is_data_file
from burnish.data.spec import DatasetSpec
from burnish.data.text import COMPRESSIONS
from burnish.errors import DataError
from burnish.registry import did_you_mean

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:^|/)(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*$")
_PARTIAL = "partial-"


def choose_files(names: Sequence[str], card: Mapping[str, Any], spec: DatasetSpec, notes: list[str]) -> list[str]:
    """The data files of the subset, split and folder that a dataset asks for, in the order of the repository.

    Args:
        names: all files of the repository.
        card: the header of its README; `configs` there says which file belongs where.
        spec: the dataset.
        notes: gets a sentence for what was left out.
    Returns:
        File names; empty where the repository has no data file at all.
    Raises:
        DataError: the subset, split or folder is not there; those that are, are named.
    """
    data = [name for name in names if is_data_file(name)]
    if not data:
        return []
    configs = [config for config in card.get("configs") or () if isinstance(config, Mapping)]
    if spec.folder:
        data = _below(data, spec.folder, spec, "folder")
    elif configs:
        data = _by_config(data, configs, spec, notes)
        return _one_kind(data, spec, notes)
    if spec.subset:
        data = _below(data, spec.subset, spec, "subset")
    return _one_kind(_pick(_by_name(data, spec, notes), spec), spec, notes)


def choose_converted(names: Sequence[str], spec: DatasetSpec, notes: list[str]) -> list[str]:
    """The files of a subset and split among those that the hub converted: `subset/split/0000.parquet`."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        parts = name.split("/")
        if name.endswith(".parquet") and len(parts) == 3:
            found.setdefault(parts[0], {}).setdefault(parts[1].removeprefix(_PARTIAL), []).append(name)
    if not found:
        return []
    files = _pick(found[_subset(list(found), spec)], spec)
    if any(f"/{_PARTIAL}" in name for name in files):
        notes.append(f"{spec.name}: the hub converted only the first part of this dataset; only that part is read")
    return files


def _subset(names: list[str], spec: DatasetSpec, default: str | None = None) -> str:
    if spec.subset:
        if spec.subset not in names:
            raise _missing("subset", spec.subset, names, spec)
        return spec.subset
    default = default or ("default" if "default" in names else None) or (names[0] if len(names) == 1 else None)
    if default is None:
        raise DataError(
            f"'{spec.source}' has several subsets",
            at=spec.where(),
            fix=f'add "subset" with one of: {", ".join(names[:20])}',
        )
    return default


def _missing(key: str, wanted: str, there: Iterable[str], spec: DatasetSpec) -> DataError:
    return DataError(f"'{spec.source}' has no {key} '{wanted}'", at=spec.where(key), fix=did_you_mean(wanted, there))


def _below(names: list[str], folder: str, spec: DatasetSpec, key: str) -> list[str]:
    prefix = folder.strip("/") + "/"
    found = [name for name in names if name.startswith(prefix)]
    if not found:
        raise _missing(key, folder, {name.rpartition("/")[0] for name in names if "/" in name}, spec)
    return found


def _by_config(names: list[str], configs: list[Mapping[str, Any]], spec: DatasetSpec, notes: list[str]) -> list[str]:
    known = {str(config.get("config_name", "default")): config for config in configs}
    default = next((name for name, config in known.items() if config.get("default") is True), None)
    config = known[_subset(list(known), spec, default)]
    if config.get("data_dir"):
        names = _below(names, str(config["data_dir"]), spec, "folder")
    splits = _config_splits(config.get("data_files"))
    if not splits:
        return _pick(_by_name(names, spec, notes), spec)
    base = f"{str(config.get('data_dir') or '').strip('/')}/".removeprefix("/")
    wanted = _pick(splits, spec)
    patterns = [glob_regex(base + pattern.removeprefix("./")) for pattern in wanted]
    found = [name for name in names if any(pattern.fullmatch(name) for pattern in patterns)]
    if not found:
        fix = "look at the repository's card, or name a folder"
        raise DataError(f"no file of '{spec.source}' matches {', '.join(wanted)}", at=spec.where(), fix=fix)
    return found


def _config_splits(value: object) -> dict[str, list[str]]:
    """Split → patterns, from the ways in which a card may write `data_files`."""
    if isinstance(value, str):
        return {"train": [value]}
    if isinstance(value, Mapping):
        return {str(split): _texts(patterns) for split, patterns in value.items()}
    if not isinstance(value, list):
        return {}
    if all(isinstance(item, str) for item in value):
        return {"train": list(value)} if value else {}
    splits: dict[str, list[str]] = {}
    for item in value:
        if isinstance(item, Mapping):
            splits.setdefault(str(item.get("split", "train")), []).extend(_texts(item.get("path")))
    return splits


def _texts(value: object) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A pattern of a card as a regular expression: `*` stays within a folder, `**` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(known.get(part) or (part if re.fullmatch(r"\[.+\]", part) else re.escape(part)) for part in parts)
    )


def _by_name(names: list[str], spec: DatasetSpec, notes: list[str]) -> dict[str, list[str]]:
    """Split → files: numbered parts name their split, else words in file or folder names; else all is `train`."""
    for told in (_shard_split, _word_split):
        splits: dict[str, list[str]] = {}
        rest = []
        for name in names:
            split = told(name)
            splits.setdefault(split, []).append(name) if split else rest.append(name)
        if splits:
            if rest:
                few = ", ".join(rest[:3]) + (", …" if len(rest) > 3 else "")
                notes.append(f"{spec.name}: {len(rest)} files belong to no split and are not read: {few}")
            return splits
    return {"train": names}


def split_of(name: str) -> str | None:
    """The split that a file's name tells, or None."""
    return _shard_split(name) or _word_split(name)


def _shard_split(name: str) -> str | None:
    found = _SHARD.search(name)
    return found[1] if found else None


def _word_split(name: str) -> str | None:
    folders, _, file = name.rpartition("/")
    for text in (file, *reversed(folders.split("/"))):
        words = re.split(r"[-._ 0-9]+", text.lower())
        found = next((split for split, known in _WORDS.items() if any(word in known for word in words)), None)
        if found:
            return found
    return None


def _pick(splits: Mapping[str, list[str]], spec: DatasetSpec) -> list[str]:
    if spec.split not in splits:
        raise _missing("split", spec.split, splits, spec)
    return splits[spec.split]


def _one_kind(names: list[str], spec: DatasetSpec, notes: list[str]) -> list[str]:
    """The files of the most common type; a repository may hold the same rows in several."""
    kinds = Counter(_kind(name) for name in names)
    if len(kinds) > 1:
        kept = kinds.most_common(1)[0][0]
        others = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if kind != kept)
        notes.append(f"{spec.name}: its {kept} files are read; files of other types are not: {others}")
        names = [name for name in names if _kind(name) == kept]
    return names


def _kind(name: str) -> str:
    parts = name.rpartition("/")[2].lower().split(".")
    while f".{parts[-1]}" in COMPRESSIONS:
        parts.pop()
    return ".json" if parts[-1] == "jsonl" else f".{parts[-1]}"
