"""Files to rows. A reader yields whatever the file holds; converters ask whether a row is usable."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.data.text import ending
from burnish.errors import DataError
from burnish.registry import LazyTable, did_you_mean, nearest

READERS = LazyTable("file type")
"""File ending → `read(path, notes, start)`, a generator of rows; a new file type is one line here and one function."""
READERS.add(".json", "burnish.data.read_json:read_json")
READERS.add(".jsonl", "burnish.data.read_json:read_json_lines")
READERS.add(".csv", "burnish.data.read_tables:read_csv")
READERS.add(".tsv", "burnish.data.read_tables:read_tsv")
READERS.add(".parquet", "burnish.data.read_arrow:read_parquet")
READERS.add(".arrow", "burnish.data.read_arrow:read_arrow")
READERS.add(".txt", "burnish.data.read_tables:read_text")
_GROUPERS = LazyTable("file type")
"""File ending → `groups(path)`, the rows of each group that the file is written in; not for packed files."""
_GROUPERS.add(".parquet", "burnish.data.read_arrow:parquet_groups")
_GROUPERS.add(".arrow", "burnish.data.read_arrow:arrow_groups")
_JSON = (".json", ".jsonl")
_COUNTERS = LazyTable("file type")
"""File ending → `count(path)`, for types whose rows can be counted without making them, also in packed files."""
_COUNTERS.add(".jsonl", "burnish.data.read_json:count_json_lines")
_COUNTERS.add(".txt", "burnish.data.read_json:count_text_lines")
_COUNTERS.add(".parquet", "burnish.data.read_arrow:count_parquet")
_COUNTERS.add(".arrow", "burnish.data.read_arrow:count_arrow")

_PLACED = LazyTable("file type")
"""File ending → `rows(path, enough)`, for files that are read from any row on; None for one that cannot; not packed."""
_PLACED.add(".json", "burnish.data.read_json:rows_of_json")
_PLACED.add(".csv", "burnish.data.read_tables:rows_of_csv")
_PLACED.add(".tsv", "burnish.data.read_tables:rows_of_tsv")
_PLACED.add(".jsonl", "burnish.data.read_json:rows_of_json_lines")
_PLACED.add(".txt", "burnish.data.read_json:rows_of_text")

REGISTRY_FILES = ("dataset_info.json", "dataset_info.yaml", "dataset_info.yml")
_ABOUT = (*REGISTRY_FILES, "state.json", "dataset_dict.json", "dataset_infos.json", "README.txt", "LICENSE.txt")
"""Files that say something about data and hold none."""
_MAGIC = "*?["


def read_rows(path: Path, notes: list[str], start: int = 0, *, go_on: bool = False) -> Iterator[Any]:
    """The rows of one file, lazily and with flat memory.

    Args:
        path: the file; `.gz` and `.zst` are unpacked on the way.
        notes: gets a sentence for each thing that the user should know.
        start: begin at this row (they count from 0). Parquet and Arrow files skip to it, plain text files are begun
            near to it, packed ones are read through.
        go_on: a line that is no JSON is given as a BrokenRow instead of ending the file.
    Raises:
        DataError: the file is missing, empty, broken or of a type that cannot be read. Most of these show only
            while the rows are taken.
    """
    check_file(path)
    kind = ending(path)
    if kind not in READERS:
        raise DataError(
            f"files of type '{kind or path.name}' cannot be read",
            at=str(path),
            fix=f"the types that can be read: {', '.join(READERS)}, each also as .gz or .zst",
        )
    more = {"go_on": True} if go_on and kind in _JSON else {}
    rows: Iterator[Any] = READERS.get(kind)(path, notes, start, **more)
    return rows


def count_rows(path: Path) -> int:
    """How many rows a file holds. Raises DataError where it cannot be read, as `read_rows` does."""
    check_file(path)
    told = rows_if_told(path)
    if told is not None:
        return told
    if ending(path) in _COUNTERS:
        return int(_COUNTERS.get(ending(path))(path))
    return sum(1 for _ in read_rows(path, []))


def row_groups(path: Path) -> list[int]:
    """The rows of each group that a Parquet or Arrow file is written in; none of files that are no such groups."""
    kind = path.suffix.lower()
    return list(_GROUPERS.get(kind)(path)) if kind in _GROUPERS else []


def rows_with_places(path: Path, enough: int | None = None) -> int | None:
    """The rows of a file that can be begun and cut at any of them: plain text in UTF-8; None of any other.

    Such a file is gone through once to know it.

    Args:
        enough: as in `places.rows_in`.
    """
    kind = path.suffix.lower()
    rows: int | None = _PLACED.get(kind)(path, enough) if kind in _PLACED else None
    return rows


def rows_if_told(path: Path, enough: int | None = None) -> int | None:
    """The rows of a file in which any row is come to without reading all before it; None of any other."""
    rows = rows_with_places(path, enough)
    return rows if rows is not None else sum(row_groups(path)) or None


def is_data_file(name: str) -> bool:
    """Whether a file of this name is read as data, by its ending."""
    path = Path(name)
    return ending(path) in READERS and path.name not in _ABOUT and not path.name.startswith(".")


def is_pattern(path: Path | str) -> bool:
    """Whether a path has `*`, `?` or `[` in it and stands for several files."""
    return any(mark in str(path) for mark in _MAGIC)


def check_file(path: Path) -> None:
    """Raise DataError where a file is missing, unreadable or empty; a missing one names its neighbours."""
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty", at=str(path), fix="put at least one row into it")
    except FileNotFoundError:
        raise DataError("file not found", at=str(path), fix=_neighbours(path)) from None
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", at=str(path)) from None


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    names = sorted(found.name for found in path.parent.iterdir() if is_data_file(found.name))
    close = nearest(path.stem, [Path(name).stem for name in names])
    if close:
        return f"did you mean '{next(name for name in names if Path(name).stem == close[0])}'?"
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"the folder has: {listed}" if names else "the folder has no data file"


def data_files(path: Path, split: str = "train") -> list[Path]:
    """The files of a dataset: the file itself, the matches of a pattern, or the files of one type in a folder.

    Files that say something about data, such as dataset_info.json, are none.

    Args:
        path: a file, a folder (folders in it are read too, by name), a folder that `datasets` saved, or a pattern.
        split: which part of a folder that `datasets` saved with several parts.
    Raises:
        DataError: nothing is there, nothing of it can be read, or it mixes types.
    """
    if path.is_dir():
        saved = _saved_files(path, split)
        if saved:
            return saved
        files = [found for found in _walk(path) if is_data_file(found.name)]
        if not files:
            fix = f"put {', '.join(READERS)} files there"
            raise DataError("the folder has no file that can be read", at=str(path), fix=fix)
    elif is_pattern(path) and not path.exists():
        found = (Path(name) for name in sorted(glob.glob(str(path), recursive=True)))
        files = [match for match in found if match.is_file() and match.name not in _ABOUT]
        if not files:
            raise DataError("no file matches the pattern", at=str(path), fix=_neighbours(_still(path) / path.name))
    else:
        check_file(path)
        return [path]
    return one_type(files, str(path))


def one_type(files: list[Path], at: str) -> list[Path]:
    """The files as they are. Raises DataError where they are of several types."""
    endings = sorted({ending(found) for found in files})
    if len(endings) > 1:
        where = "pattern matches several" if is_pattern(at) else "folder mixes"
        raise DataError(
            f"the {where} file types: {', '.join(endings)}",
            at=at,
            fix=f"name one type, as '*{endings[0]}', or one file",
        )
    return files


def _still(path: Path) -> Path:
    """The part of a pattern that is a plain folder."""
    return next(parent for parent in path.parents if not is_pattern(parent))


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder, by name; hidden folders are left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from (Path(place) / name for name in sorted(names))


def _saved_files(folder: Path, split: str) -> list[Path]:
    """The files of a folder that `datasets` saved, in its order; none where it is a plain folder."""
    parts = _about(folder / "dataset_dict.json", "splits")
    if parts:
        if split not in parts:
            fix = f"set split: {did_you_mean(split, parts)}"
            raise DataError(f"the saved dataset has no split '{split}'", at=str(folder), fix=fix)
        folder = folder / split
    entries = _about(folder / "state.json", "_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    for file in files:
        check_file(file)
    return files


def _about(path: Path, key: str) -> list[Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    value = held.get(key) if isinstance(held, dict) else None
    return value if isinstance(value, list) else []
