"""Where a dataset's files are: here, or fetched from a hub or a cloud store first."""

from __future__ import annotations

import hashlib
from pathlib import Path

from burnish.cache import cache_folder
from burnish.data.hub_files import split_of
from burnish.data.readers import data_files
from burnish.data.spec import DatasetSpec
from burnish.errors import DataError


def default_cache_dir() -> Path:
    """Where fetched data is kept: `datasets` in Burnish's cache folder."""
    return cache_folder() / "datasets"


def source_files(
    spec: DatasetSpec, notes: list[str], cache_dir: Path | None = None, hub_token: str | None = None
) -> list[Path]:
    """The local files of a dataset, in the order in which they are read.

    Args:
        spec: the dataset.
        notes: gets a sentence for each thing that the user should know.
        cache_dir: where fetched files are kept; `default_cache_dir()` where None.
        hub_token: for the hub that the dataset lies on; where None, the hub's own tools look for one.
    Raises:
        DataError: the data is not there or cannot be fetched.
    """
    if spec.source_kind in ("file", "script"):
        return _local(spec, notes)
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


def _local(spec: DatasetSpec, notes: list[str]) -> list[Path]:
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
    if spec.split != "train" and not parted:
        raise DataError(
            f"a local file has no split '{spec.split}'",
            at=spec.where("split"),
            fix="remove split, or name the file that holds it",
        )
    for name in ("subset", "folder", "revision"):
        if getattr(spec, name):
            notes.append(f"{spec.name}: {name} '{getattr(spec, name)}' means nothing for a local file")
    files = data_files(spec.path, spec.split)
    splits = dict.fromkeys(filter(None, (split_of(file.name) for file in files)))
    if len(splits) > 1 and not parted:
        notes.append(
            f"{spec.name}: all {len(files)} files are read, of {' and '.join(splits)}; name one file to read less"
        )
    if spec.sha1 and len(files) == 1 and _sha1(files[0]) != spec.sha1:
        notes.append(f"{spec.name}: the file is not the one that file_sha1 describes")
    return files


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha1").hexdigest()
