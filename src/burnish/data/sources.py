"""Where a dataset's files are: here, or fetched from a hub or a cloud store first."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from burnish.cache import cache_folder
from burnish.data.hub_files import split_of
from burnish.data.readers import data_files
from burnish.data.slices import cut, parse_split
from burnish.data.spec import DatasetSpec
from burnish.data.stretches import Stretch, joined
from burnish.errors import DataError
from burnish.registry import did_you_mean


def default_cache_dir() -> Path:
    """Where fetched data is kept: `datasets` in Burnish's cache folder."""
    return cache_folder() / "datasets"


def source_stretches(
    spec: DatasetSpec,
    notes: list[str],
    cache_dir: Path | None = None,
    hub_token: str | None = None,
    max_files: int | None = None,
) -> list[Stretch]:
    """The rows of local files that make up a dataset, in the order in which they are read.

    Args:
        spec: the dataset; its split may be a slice (`train[:10%]`), or several with `+` between them.
        notes, cache_dir, hub_token: as in `source_files`.
        max_files: take at most the first n files of each split; a slice is then one of these.
    Raises:
        DataError: as `source_files`; also where the split is not written as one, or a slice of it is empty.
    """
    at = spec.where("split" if spec.entry else None)
    found: list[Stretch] = []
    said: list[str] = []
    for part in parse_split(spec.split, at):
        one = replace(spec, split=part.split)
        files = source_files(one, said, cache_dir, hub_token, picks=spec.split != "train")
        found += cut(files[:max_files], part, at)
    notes += dict.fromkeys(said)
    return joined(found)


def source_files(
    spec: DatasetSpec,
    notes: list[str],
    cache_dir: Path | None = None,
    hub_token: str | None = None,
    *,
    picks: bool = False,
) -> list[Path]:
    """The local files of one split of a dataset, in the order in which they are read.

    Args:
        spec: the dataset.
        notes: gets a sentence for each thing that the user should know.
        cache_dir: where fetched files are kept; `default_cache_dir()` where None.
        hub_token: for the hub that the dataset lies on; where None, the hub's own tools look for one.
        picks: of a local folder only the files whose names tell this split; else all of them.
    Raises:
        DataError: the data is not there or cannot be fetched.
    """
    if spec.source_kind in ("file", "script"):
        return _local(spec, notes, picks)
    cache = cache_dir or default_cache_dir()
    if spec.source_kind == "hf_hub":
        from burnish.data.hub import fetch_hugging_face

        return fetch_hugging_face(spec, cache, hub_token, notes)
    if spec.source_kind == "ms_hub":
        from burnish.data.hub import fetch_modelscope

        return fetch_modelscope(spec, cache, hub_token, notes)
    if spec.source_kind == "cloud":
        from burnish.data.cloud import fetch_cloud

        return fetch_cloud(spec, cache, notes)
    raise DataError(
        f"'{spec.name}' lies on a hub that is not supported ({spec.source})",
        at=spec.where("om_hub_url"),
        fix="add hf_hub_url or ms_hub_url, or download it and name the file in file_name",
    )


def _local(spec: DatasetSpec, notes: list[str], picks: bool) -> list[Path]:
    assert spec.path is not None
    if spec.source_kind == "script":
        if not spec.path.is_dir():
            raise DataError(
                f"'{spec.name}' is a loading script; Burnish never runs one",
                at=spec.where("script_url"),
                fix="put the data files into a folder of that name, or name a file in file_name",
            )
        notes.append(f"{spec.name}: its loading script is not run; the data files in {spec.path} are read")
    parted = (spec.path / "dataset_dict.json").is_file()
    for name in ("subset", "folder", "revision"):
        if getattr(spec, name):
            notes.append(f"{spec.name}: {name} '{getattr(spec, name)}' means nothing for a local file")
    files = _with_rows(data_files(spec.path, spec.split), spec, notes)
    splits = list(dict.fromkeys(filter(None, (split_of(file.name) for file in files))))
    if picks and not parted:
        files = _of_split(files, splits, spec)
    elif len(splits) > 1 and not parted:
        notes.append(
            f"{spec.name}: all {len(files)} files are read, of {' and '.join(splits)}; name one file to read less"
        )
    if spec.sha1 and len(files) == 1 and _sha1(files[0]) != spec.sha1:
        notes.append(f"{spec.name}: the file is not the one that file_sha1 describes")
    return files


def _with_rows(files: list[Path], spec: DatasetSpec, notes: list[str]) -> list[Path]:
    """The files without those of no bytes, which programs that write in parts leave; all, where all are so."""
    kept = [file for file in files if file.stat().st_size]
    if not kept or len(kept) == len(files):
        return files
    empty = [file.name for file in files if file not in kept]
    few = ", ".join(empty[:3]) + (", …" if len(empty) > 3 else "")
    notes.append(f"{spec.name}: {len(empty)} of {len(files)} files are empty and passed over: {few}")
    return kept


def _of_split(files: list[Path], splits: list[str], spec: DatasetSpec) -> list[Path]:
    """The files whose names tell the split; where none tells one, all are `train`."""
    if spec.split in splits:
        return [file for file in files if split_of(file.name) == spec.split]
    if spec.split == "train" and len(splits) < 2:
        return files
    raise DataError(
        f"there is no split '{spec.split}' among the files" if splits else f"a local file has no split '{spec.split}'",
        at=spec.where("split"),
        fix=did_you_mean(spec.split, splits) if splits else "remove split, or name the file that holds it",
    )


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()
