"""Files to rows. A reader yields whatever the file holds; converters ask whether a row is usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.errors import DataError
from burnish.registry import LazyTable, nearest

READERS = LazyTable("file type")
"""File ending → `read(path, notes)`, which yields rows; a new file type is one line here and one function."""
READERS.add(".json", "burnish.data.readers:read_json")
READERS.add(".jsonl", "burnish.data.readers:read_json_lines")

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, notes: list[str]) -> Iterator[Any]:
    """The rows of one file, lazily where the file type allows it.

    Args:
        path: the file.
        notes: gets a sentence for each thing that the user should know.
    Raises:
        DataError: the file is missing, empty, broken or of a type that cannot be read. Some of these show
            only while the rows are taken.
    """
    ending = path.suffix.lower()
    check_file(path)
    if ending not in READERS:
        raise DataError(
            f"files of type '{ending or path.name}' cannot be read",
            at=str(path),
            fix="save the rows as .jsonl (one JSON object a line) or .json (a list of objects)",
        )
    rows: Iterator[Any] = READERS.get(ending)(path, notes)
    return rows


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
    there = (found.name for found in path.parent.iterdir() if found.suffix.lower() in READERS)
    names = sorted(name for name in there if name != "dataset_info.json")
    close = nearest(path.stem, [Path(name).stem for name in names])
    if close:
        return f"did you mean '{next(name for name in names if Path(name).stem == close[0])}'?"
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"the folder has: {listed}" if names else "the folder has no .json or .jsonl file"


def data_files(path: Path) -> list[Path]:
    """The files of a dataset: the file itself, or the files of one type in a folder, by name.

    Raises:
        DataError: nothing is there, nothing in the folder can be read, or it mixes types.
    """
    if not path.is_dir():
        check_file(path)
        return [path]
    files = sorted(found for found in path.iterdir() if found.is_file() and found.suffix.lower() in READERS)
    endings = sorted({found.suffix.lower() for found in files})
    if not files:
        raise DataError(
            "the folder has no file that can be read",
            at=str(path),
            fix=f"put {' or '.join(READERS)} files there",
        )
    if len(endings) > 1:
        raise DataError(
            f"the folder mixes file types: {', '.join(endings)}",
            at=str(path),
            fix="keep one type in a folder, or name one file",
        )
    return files


def read_json(path: Path, notes: list[str]) -> Iterator[Any]:
    """A list of rows, or an object that holds exactly one list. JSON lines are recognised too."""
    if _is_json_lines(path):
        notes.append(f"{path.name}: holds one JSON object a line, so it is read as .jsonl")
        return _lines(path)
    return iter(_rows_of(_parse(path), path))


def read_json_lines(path: Path, notes: list[str]) -> Iterator[Any]:
    """One row a line; blank lines are skipped. A .jsonl file that is one JSON list is read as such."""
    if _is_json_array(path):
        notes.append(f"{path.name}: is one JSON list, so it is read as .json")
        return iter(_rows_of(_parse(path), path))
    return _lines(path)


def _lines(path: Path) -> Iterator[Any]:
    empty = True
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if not line.strip():
                continue
            empty = False
            yield _loads(line, path, number)
    if empty:
        raise DataError("the file has no rows", at=str(path), fix="put at least one row into it")


def _loads(line: bytes, path: Path, number: int) -> Any:
    at = f"{path}: line {number}"
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(at, error) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON: {error.msg}",
            at=f"{at}, column {error.colno}",
            fix="each line must be one JSON object",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON that cannot be read: {error}", at=at) from None


def _parse(path: Path) -> Any:
    data = path.read_bytes().removeprefix(_BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _not_utf8(f"{path}: line {line}", error) from None
    if not text.strip():
        raise DataError("the file has no rows", at=str(path), fix="put at least one row into it")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"broken JSON: {error.msg}",
            at=f"{path}: line {error.lineno}, column {error.colno}",
            fix="the file must be one JSON list of objects",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON that cannot be read: {error}", at=str(path)) from None


def _not_utf8(at: str, error: UnicodeDecodeError) -> DataError:
    found = error.object[error.start]
    return DataError(f"the file is not UTF-8: byte 0x{found:02x}", at=at, fix="save the file as UTF-8")


def _rows_of(value: Any, path: Path) -> list[Any]:
    fix = "the file must be a list of objects, or an object that holds one such list"
    if isinstance(value, dict):
        lists = [key for key, held in value.items() if isinstance(held, list)]
        if len(lists) != 1:
            found = f"{len(lists)} lists ({', '.join(lists[:6])})" if lists else "no list"
            raise DataError(f"the top level is an object with {found}", at=str(path), fix=fix)
        value = value[lists[0]]
    if not isinstance(value, list):
        kind = {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise DataError(f"the top level is {kind}", at=str(path), fix=fix)
    if not value:
        raise DataError("the file has no rows", at=str(path), fix="put at least one row into it")
    return value


def _first_line(path: Path) -> tuple[bytes, bool]:
    """The first line that is not blank, and whether anything but blanks follows it."""
    first = b""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream):
            line = (raw.removeprefix(_BOM) if number == 0 else raw).strip()
            if line and first:
                return first, True
            first = first or line
    return first, False


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_json_lines(path: Path) -> bool:
    first, more = _first_line(path)
    return more and first.startswith(b"{") and _is_whole(first)


def _is_json_array(path: Path) -> bool:
    first, more = _first_line(path)
    return first.startswith(b"[") and not (more and _is_whole(first))
