"""Parquet and Arrow files to rows, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from burnish.data.read_json import NO_ROWS, ONE_ROW
from burnish.data.text import open_seekable
from burnish.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Clean = Callable[[Any], Any]
_BATCH_ROWS = 256
_FILE_MAGIC = b"ARROW1"


def read_parquet(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """Rows of a Parquet file; whole row groups before `start` are not read."""
    import pyarrow.parquet as pq

    with _readable(path, "Parquet"), open_seekable(path) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        groups, skip = list(range(file.metadata.num_row_groups)), start
        _check_rows(file.metadata.num_rows, path)
        while groups and skip >= file.metadata.row_group(groups[0]).num_rows:
            skip -= file.metadata.row_group(groups.pop(0)).num_rows
        batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, use_threads=False)
        yield from _rows(batches, file.schema_arrow, skip)


def count_parquet(path: Path) -> int:
    """The rows of a Parquet file, as it says itself."""
    return sum(parquet_groups(path))


def parquet_groups(path: Path) -> list[int]:
    """The rows of each row group of a Parquet file."""
    import pyarrow.parquet as pq

    with _readable(path, "Parquet"), open_seekable(path) as stream:
        about = pq.read_metadata(stream)
        return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


def count_arrow(path: Path) -> int:
    """The rows of an Arrow file; its batches are gone through, but no row is made."""
    return sum(arrow_groups(path))


def arrow_groups(path: Path) -> list[int]:
    """The rows of each record batch of an Arrow file."""
    with _readable(path, "Arrow"), open_seekable(path) as stream:
        return [batch.num_rows for batch in _batches(stream)[0]]


def read_arrow(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """Rows of an Arrow file, in the stream form (as `datasets` writes it) or the file form."""
    with _readable(path, "Arrow"), open_seekable(path) as stream:
        empty = True
        for row in _rows(*_batches(stream), start):
            empty = False
            yield row
        if empty and not start:
            _check_rows(0, path)


def _batches(stream: BinaryIO) -> tuple[Iterator[pa.RecordBatch], pa.Schema]:
    """The record batches of an open Arrow file, in either form."""
    import pyarrow as pa

    is_file = stream.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    stream.seek(0)
    if not is_file:
        reader = pa.ipc.open_stream(stream)
        return iter(reader), reader.schema
    opened = pa.ipc.open_file(stream)
    return (opened.get_batch(number) for number in range(opened.num_record_batches)), opened.schema


@contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError) as error:  # values, too: broken text, years beyond 9999
        what = f"the file cannot be read as {name}: {str(error).splitlines()[0][:200]}"
        raise DataError(what, at=str(path), fix="the file is damaged, incomplete or of another type") from None


def _check_rows(count: int, path: Path) -> None:
    if not count:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)


def _rows(batches: Iterator[pa.RecordBatch], schema: pa.Schema, skip: int) -> Iterator[Any]:
    cleaners = {field.name: clean for field in schema if (clean := cleaner(field.type))}
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        for first in range(skip, batch.num_rows, _BATCH_ROWS):
            for row in batch.slice(first, _BATCH_ROWS).to_pylist():
                for name, clean in cleaners.items():
                    row[name] = clean(row[name])
                yield row
        skip = 0


def cleaner(kind: pa.DataType) -> Clean | None:
    """What makes plain values (as JSON has them) of a column's Python values; None where they are plain already.

    Arrow gives every object of a column the same keys and fills the missing ones with null, so null keys inside
    objects are taken out again: a tool call must not get arguments that only another row's call has.
    """
    from pyarrow import types

    if types.is_struct(kind):
        return _struct({field.name: cleaner(field.type) for field in kind})
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = cleaner(kind.value_type)
        return _each(inner) if inner else None
    if types.is_map(kind):
        return lambda value: None if value is None else dict(value)
    if types.is_dictionary(kind):
        return cleaner(kind.value_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _text
    if types.is_temporal(kind) or types.is_decimal(kind):
        return _written
    return None


def _struct(inner: dict[str, Clean | None]) -> Clean:
    cleaning = {name: clean for name, clean in inner.items() if clean}

    def clean(value: dict[str, Any] | None) -> Any:
        if value is None:
            return None
        kept = {name: held for name, held in value.items() if held is not None}
        for name, inside in cleaning.items():
            if name in kept:
                kept[name] = inside(kept[name])
        return kept

    return clean


def _each(inner: Clean) -> Clean:
    return lambda value: None if value is None else [inner(held) for held in value]


def _text(value: Any) -> Any:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _written(value: Any) -> Any:
    if value is None:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
