"""Prepared examples on disk, read back through a memory map: memory stays flat however large the set is.

A set is a folder: `examples.arrow` (ids, labels, weights and origin of each example, in record batches) and
`set.json` (counts, and the SHA-256 over all of it). It is written aside and renamed, so that it is whole or absent, and
two processes that prepare the same set at once do not disturb each other.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import mmap
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from burnish.batch.chunks import Chunk, example_of
from burnish.data.records import Sample
from burnish.errors import DataError
from burnish.template import Example

EXAMPLES, ABOUT = "examples.arrow", "set.json"
STORE_VERSION = 2
BATCH_TOKENS = 1 << 20
"""Tokens of a record batch. Looking at the lengths in it takes memory around them, so batches are large."""
_LOOKED_BEFORE_LETTING_GO = 64
Origin = tuple[str, str, int]
"""The dataset, file and row that an example came from."""


@dataclass
class Counts:
    """What was counted while a set was prepared; all of it is kept with the set."""

    rows_read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: int = 0
    split: int = 0
    notes: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class SetWriter:
    """Writes chunks of examples into a set; nothing is there until `finish`.

    Args:
        folder: where the set will stand; its parent is created.
        replace: put the set in the place of one that is there; else the first one stays.
        marks: what the set shall say of itself besides, such as how its labels were made.
    """

    def __init__(self, folder: Path, *, replace: bool = False, **marks: str) -> None:
        self.folder, self.replace, self.marks = folder, replace, marks
        self._aside = folder.with_name(f"{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        with _written(folder):
            self._aside.mkdir(parents=True)
        self._digest = hashlib.sha256()
        self._datasets: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._sink: Any = None
        self._writer: Any = None
        self._held: list[Any] = []  # record batches that are not written yet
        self._held_tokens, self._held_weights = 0, False
        self.examples = 0

    def add(self, chunk: Chunk, samples: Sequence[Sample]) -> None:
        """Append a chunk's examples; `samples` are those that the chunk was made from."""
        import pyarrow as pa

        if not len(chunk.ends):
            return
        ends = np.concatenate([[0], chunk.ends]).astype(np.int32)
        for part in (chunk.ids, chunk.ends, chunk.trained, chunk.weights):
            self._digest.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        marks = np.zeros(len(chunk.ends), dtype=np.float32) if chunk.marks is None else chunk.marks
        if marks.any():
            self._digest.update(marks.tobytes())
        owners = [samples[owner] for owner in chunk.owners.tolist()]
        weights = pa.nulls(len(chunk.ends), pa.list_(pa.float32()))
        if chunk.weights is not None:
            weights = pa.ListArray.from_arrays(_arrow(ends), _arrow(chunk.weights, np.float32))
        columns = {
            "ids": pa.ListArray.from_arrays(_arrow(ends), _arrow(chunk.ids, np.int32)),
            "trained": pa.ListArray.from_arrays(_arrow(ends), _arrow(chunk.trained, np.uint8)),
            "weights": weights,
            "mark": _arrow(marks, np.float32),
            "dataset": _arrow([self._number(self._datasets, one.dataset) for one in owners], np.int32),
            "file": _arrow([self._number(self._files, one.file) for one in owners], np.int32),
            "row": _arrow([one.row for one in owners], np.int64),
        }
        if chunk.records is not None:
            self._digest.update("\n".join(chunk.records).encode())
            columns["record"] = pa.array(chunk.records, pa.large_string())
        with _written(self.folder):
            if self._held_weights != (chunk.weights is not None):  # a batch has weights for all its rows or for none
                self._write()
            self._held.append(pa.RecordBatch.from_pydict(columns))
            self._held_tokens += len(chunk.ids)
            self._held_weights = chunk.weights is not None
            self.examples += len(chunk.ends)
            if self._held_tokens >= BATCH_TOKENS:
                self._write()

    def _write(self) -> None:
        """Write what is held as one record batch."""
        import pyarrow as pa

        if not self._held:
            return
        [batch] = pa.Table.from_batches(self._held).combine_chunks().to_batches()
        if self._writer is None:
            self._sink = pa.OSFile(str(self._aside / EXAMPLES), "wb")
            self._writer = pa.ipc.new_file(self._sink, batch.schema)
        self._writer.write_batch(batch)
        self._held, self._held_tokens = [], 0

    @staticmethod
    def _number(table: dict[str, int], name: str) -> int:
        return table.setdefault(name, len(table))

    def finish(self, counts: Counts) -> StoredSet:
        """Put the set into its place, and open it. Another process's equal set that came first is kept.

        Raises:
            DataError: the disk is full or refuses; nothing of the set is left behind.
        """
        try:
            with _written(self.folder):
                self._seal(counts)
        except BaseException:
            self.abandon()
            raise
        if self.folder.exists() and (self.replace or open_set(self.folder) is None):
            old = self._aside.with_suffix(".old")
            os.rename(self.folder, old)  # who reads it goes on reading it
            shutil.rmtree(old, ignore_errors=True)
        try:
            os.rename(self._aside, self.folder)
        except OSError:  # another process was first
            shutil.rmtree(self._aside, ignore_errors=True)
        found = open_set(self.folder)
        assert found is not None
        return found

    def _seal(self, counts: Counts) -> None:
        """Write what the set says of itself, and flush it all: a set that a power cut tore would train other tokens."""
        self._write()
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
        about = {
            "version": STORE_VERSION,
            "examples": self.examples,
            "datasets": list(self._datasets),
            "files": list(self._files),
            "fingerprint": self._digest.hexdigest(),
            "rows_read": counts.rows_read,
            "dropped": dict(counts.dropped.most_common()),
            "shortened": counts.shortened,
            "split": counts.split,
            "notes": counts.notes,
            **self.marks,
        }
        (self._aside / ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        for file in self._aside.iterdir():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())

    def abandon(self) -> None:
        """Remove what was written so far."""
        if self._writer is not None:
            with suppress(OSError):  # a full disk
                self._writer.close()
                self._sink.close()
        shutil.rmtree(self._aside, ignore_errors=True)


def _arrow(numbers: Any, dtype: Any = np.int32) -> Any:
    """Numbers as an Arrow array of the same type; its memory is that of `numbers` where they have this type already.

    `pyarrow.array` would do the same, but imports pandas first, where it is installed: half a second and more.
    """
    import pyarrow as pa

    numbers = np.ascontiguousarray(numbers, dtype)
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)])


def _numbers(array: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """The way back: the numbers of an Arrow array of this type without nulls, in its own memory, read-only.

    As `array.to_numpy()`, without pandas.
    """
    memory = array.buffers()[1] if len(array) else b""
    if not memory:
        return np.empty(0, dtype)
    return np.frombuffer(memory, dtype, len(array), array.offset * np.dtype(dtype).itemsize)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Turn what the disk says while a set is written into an error of the data."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"prepared data could not be written: {error}",
            at=str(folder),
            fix="free some space, or name a folder on another disk with BURNISH_CACHE (or tokenized_path)",
        ) from error


def open_set(folder: Path) -> StoredSet | None:
    """The set in a folder; None where there is none, or one that an older Burnish wrote."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if about.get("version") != STORE_VERSION or (about["examples"] and not (folder / EXAMPLES).is_file()):
        return None
    return StoredSet(folder, about)


class StoredSet(Sequence[Example]):
    """The examples of a set, in order."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.about = folder, about
        self._batches: list[Any] = []
        self._views: dict[int, tuple[np.ndarray, ...]] = {}
        if about["examples"]:
            import pyarrow as pa

            try:
                with open(folder / EXAMPLES, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                reader = pa.ipc.open_file(pa.py_buffer(self._map))
                self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            except ValueError as error:  # Arrow's error for broken data is one, and so is mmap's for an empty file
                raise DataError(
                    f"a prepared set cannot be read: {error}",
                    at=str(folder),
                    fix="remove the folder, or set overwrite_cache: true",
                ) from error
        self._looked = 0  # examples since memory was let go
        self._starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in self._batches])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.about["examples"])

    def __getitem__(self, index: Any) -> Any:
        number, place = self._find(index)
        self._looked += 1
        if self._looked >= _LOOKED_BEFORE_LETTING_GO:
            self._let_go()
        starts, ids, trained, weights, marks = self._view(number)
        part = slice(starts[place], starts[place + 1])
        weighed = weights[part] if len(weights) else None
        return example_of(ids[part], trained[part].view(bool), weighed, float(marks[place]))

    def ids(self, index: int) -> np.ndarray:
        """The token ids of one example, [T] int32, without a copy."""
        number, place = self._find(index)
        starts, ids, *_ = self._view(number)
        return ids[starts[place] : starts[place + 1]]

    def origin(self, index: int) -> Origin:
        """Where an example came from."""
        number, place = self._find(index)
        batch = self._batches[number]
        dataset, file = (batch.column(name)[place].as_py() for name in ("dataset", "file"))
        return self.about["datasets"][dataset], self.about["files"][file], batch.column("row")[place].as_py()

    def record(self, index: int) -> str:
        """The record that an example was made from, as text; only sets whose chunks had `records` hold them."""
        number, place = self._find(index)
        return str(self._batches[number].column("record")[place].as_py())

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, [N] int64."""
        return self._per_example(lambda number: np.diff(self._view(number)[0]))

    @cached_property
    def supervised(self) -> np.ndarray:
        """Trained tokens of each example, [N] int64; the first token of a row is never one."""

        def count(number: int) -> np.ndarray:
            starts, _, trained, *_ = self._view(number)
            return np.add.reduceat(trained.astype(np.int64), starts[:-1]) - trained[starts[:-1]]

        return self._per_example(count)

    @cached_property
    def marks(self) -> np.ndarray:
        """The mark of each example, [N] float32."""
        return self._per_example(lambda number: self._view(number)[4].copy())

    @cached_property
    def keys(self) -> np.ndarray:
        """Dataset, file and row of each example as numbers, [N, 3] int64."""

        def three(number: int) -> np.ndarray:
            kinds = {"dataset": np.int32, "file": np.int32, "row": np.int64}
            columns = (_numbers(self._batches[number].column(name), kind) for name, kind in kinds.items())
            return np.stack([column.astype(np.int64) for column in columns], axis=1)

        return self._per_example(three).reshape(-1, 3)

    def _per_example(self, of_batch: Callable[[int], np.ndarray]) -> np.ndarray:
        parts = []
        for number in range(len(self._batches)):
            parts.append(of_batch(number))
            self._let_go()
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _let_go(self) -> None:
        """Take the file's pages out of this process's memory; what is looked at again comes from the system's cache.

        A system maps up to some megabytes around each place that is looked at, and they would stay for good: a process
        would seem to need as much memory as the set is large.
        """
        self._looked = 0
        if hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        return number, int(index - self._starts[number])

    def _view(self, number: int) -> tuple[np.ndarray, ...]:
        """Offsets, ids, labels, weights and marks of a record batch as views of the file."""
        if number not in self._views:
            batch = self._batches[number]
            column = batch.column("weights")
            empty = np.zeros(0, dtype=np.float32)
            self._views[number] = (
                _numbers(batch.column("ids").offsets, np.int32),
                _numbers(batch.column("ids").values, np.int32),
                _numbers(batch.column("trained").values, np.uint8),
                empty if column.null_count else _numbers(column.values, np.float32),
                _numbers(batch.column("mark"), np.float32),
            )
        return self._views[number]


class Selection(Sequence[Example]):
    """Some examples of a set, in a given order."""

    def __init__(self, base: StoredSet, numbers: np.ndarray) -> None:
        self.base, self.numbers = base, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return self.base[int(self.numbers[index])]

    def origin(self, index: int) -> Origin:
        return self.base.origin(int(self.numbers[index]))

    def record(self, index: int) -> str:
        return self.base.record(int(self.numbers[index]))

    @cached_property
    def lengths(self) -> np.ndarray:
        return self.base.lengths[self.numbers]

    @cached_property
    def supervised(self) -> np.ndarray:
        return self.base.supervised[self.numbers]

    @cached_property
    def marks(self) -> np.ndarray:
        return self.base.marks[self.numbers]

    @cached_property
    def datasets(self) -> np.ndarray:
        """The number of each example's dataset among `names`, [N] int64."""
        return self.base.keys[self.numbers, 0]

    @property
    def names(self) -> list[str]:
        """The datasets, in the order of their numbers."""
        return list(self.base.about["datasets"])

    @property
    def rows(self) -> int:
        """Distinct rows of the data."""
        if not len(self):
            return 0
        dataset, file, row = self.base.keys[self.numbers].T
        files, rows = len(self.base.about["files"]), int(row.max()) + 1
        return len(np.unique((dataset * files + file) * rows + row))  # one number for each, which sorts in less memory


def cached_sets(folder: Path) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """The prepared sets below a folder: path, what they say of themselves, bytes on disk."""
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        found = open_set(path)
        if found is not None:
            yield path, found.about, sum(file.stat().st_size for file in path.iterdir())
