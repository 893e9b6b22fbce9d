"""Datasets to samples: read, convert, count what was dropped and say why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from burnish.data.checks import STAGE_RECORD, Seen, check_columns, check_local, check_stage
from burnish.data.converters import CONVERTERS, Converter
from burnish.data.detect import detect
from burnish.data.readers import data_files, read_rows
from burnish.data.records import Sample
from burnish.data.registry import describe_registry, resolve
from burnish.data.rows import BadRow, kind_of
from burnish.data.spec import TAG_NAMES, DatasetSpec
from burnish.data.split import choose, split_samples
from burnish.errors import DataError

__all__ = ["Loaded", "NamedBadRow", "describe_registry", "load_samples", "split_samples"]

BAD_ROWS_LISTED = 20
BAD_SHARE = 0.05
CONVERSION_VERSION = 1
"""Raise this when the same rows give other records: it is part of the fingerprint."""
_HEAD = 1000


class NamedBadRow(NamedTuple):
    """A row that was dropped; `row` counts from 0 in its file."""

    dataset: str
    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read.

    Args:
        samples: the usable rows, dataset after dataset, in file order.
        rows_read: rows that were looked at, bad ones included.
        dropped: reason → number of rows.
        bad_rows: the first 20 of them.
        notes: what the user should know: guesses, repairs, columns that were left unread.
        files: every file that was read.
        fingerprint: sha256 over the content of the files and all that decides how rows become samples.
    """

    samples: list[Sample]
    rows_read: int
    dropped: dict[str, int]
    bad_rows: list[NamedBadRow]
    notes: list[str]
    files: list[Path]
    fingerprint: str


@dataclass(slots=True)
class _Tally:
    """What is counted while one dataset is read."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[NamedBadRow] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def drop(self, spec: DatasetSpec, file: Path, row: int, bad: BadRow) -> None:
        """Count a bad row, and name it while there is room."""
        self.dropped[bad.reason] += 1
        if len(self.bad) < BAD_ROWS_LISTED:
            self.bad.append(NamedBadRow(spec.name, str(file), row, str(bad)))


def load_samples(
    names: Sequence[str],
    dataset_dir: Path,
    *,
    stage: str = "sft",
    max_samples: int | None = None,
    on_bad_row: Literal["drop", "error"] = "drop",
    seed: int = 42,
) -> Loaded:
    """Read datasets into samples.

    Args:
        names: datasets of the registry in `dataset_dir`, or paths of files and folders.
        dataset_dir: the folder with `dataset_info.json`.
        stage: what the samples are for; the data must hold the kind of record that it needs.
        max_samples: take at most the first n rows of each dataset; bad ones among them count.
        on_bad_row: `drop` counts bad rows, and is an error once more than 5% of a dataset (and more than
            one row) are bad; `error` stops at the first.
        seed: for `num_samples` in the registry.
    Raises:
        DataError: anything the user can mend; says what, in which file, row and key, and how.
    """
    if not names:
        raise DataError("no dataset is named", at="dataset", fix="set dataset to a name or a file")
    samples: list[Sample] = []
    total = _Tally()
    digest = hashlib.sha256(json.dumps([CONVERSION_VERSION, stage, max_samples]).encode())
    for name in names:
        spec = resolve(name, dataset_dir)
        tally = _Tally()
        spec, found = _load_one(spec, tally, stage, max_samples, on_bad_row, seed)
        samples += found
        _add(total, spec, tally)
        _digest(digest, spec, tally.files, seed)
    for name, count in Counter(names).items():
        if count > 1:
            total.notes.append(f"{name}: named {count} times, so its rows are used {count} times")
    return Loaded(
        samples,
        total.rows,
        dict(total.dropped.most_common()),
        total.bad[:BAD_ROWS_LISTED],
        total.notes,
        total.files,
        digest.hexdigest(),
    )


def _load_one(
    spec: DatasetSpec,
    tally: _Tally,
    stage: str,
    max_samples: int | None,
    on_bad_row: str,
    seed: int,
) -> tuple[DatasetSpec, list[Sample]]:
    if spec.formatting is not None:
        check_stage(spec, stage)
    tally.files = data_files(check_local(spec, tally.notes))
    rows = _all_rows(tally)
    head = list(islice(rows, _HEAD))
    if spec.formatting is None:
        spec, guessed = detect([row for _, _, row in head], spec)
        tally.notes.append(guessed)
        check_stage(spec, stage)
    seen = Seen()
    for _, _, row in head:
        seen.add(row, spec)
    check_columns(spec, seen, whole=len(head) < _HEAD)
    convert: Converter = CONVERTERS.get(f"{spec.formatting}/{STAGE_RECORD[stage]}")

    limit = None if spec.num_samples else max_samples
    samples: list[Sample] = []
    for file, index, row in islice(chain(head, rows), limit):
        tally.rows += 1
        if tally.rows > _HEAD:
            seen.add(row, spec)
        try:
            if not isinstance(row, Mapping):
                raise BadRow("row is not an object", detail=kind_of(row))
            samples.append(Sample(convert(row, spec, tally.repairs), spec.name, index))
        except BadRow as bad:
            if on_bad_row == "error":
                raise _first_bad(file, index, bad) from None
            tally.drop(spec, file, index, bad)
    if limit is None or tally.rows < limit:
        check_columns(spec, seen, whole=True)
    _check_dropped(spec, tally, len(samples))
    tally.notes += seen.unread(spec)
    if spec.num_samples:
        drawn = choose(len(samples), spec.num_samples, seed, spec.name)[:max_samples]
        samples = [samples[position] for position in sorted(drawn)]
    return spec, samples


def _all_rows(tally: _Tally) -> Iterator[tuple[Path, int, Any]]:
    for file in tally.files:
        for index, row in enumerate(read_rows(file, tally.notes)):
            yield file, index, row


def _first_bad(file: Path, row: int, bad: BadRow) -> DataError:
    at = f"{file}: row {row}" + (f", {bad.key}" if bad.key else "")
    what = bad.reason + (f": {bad.detail}" if bad.detail else "")
    return DataError(what, at=at, fix="mend or remove the row, or set on_bad_row: drop (rows count from 0)")


def _check_dropped(spec: DatasetSpec, tally: _Tally, kept: int) -> None:
    """Raise DataError where no row is usable, or more than one and more than 5% of the rows are bad."""
    bad = tally.dropped.total()
    if kept and (bad <= 1 or bad <= BAD_SHARE * tally.rows):
        return
    reasons = ", ".join(f"{reason} ({count})" for reason, count in tally.dropped.most_common(6))
    first = "; ".join(f"row {found.row}: {found.reason}" for found in tally.bad[:5])
    few = f"{bad} of {tally.rows} rows ({100 * bad / tally.rows:.1f}%) of '{spec.name}' cannot be used"
    none = f"none of the {tally.rows} rows of '{spec.name}' can be used"
    raise DataError(
        f"{few if kept else none}: {reasons}",
        at=tally.bad[0].file if tally.bad else spec.where(),
        fix=f"{_hint(spec, tally)}mend or remove these rows (they count from 0): {first}",
    )


def _hint(spec: DatasetSpec, tally: _Tally) -> str:
    if "unknown role" in tally.dropped and spec.formatting == "sharegpt":
        return f"name the roles under tags ({', '.join(TAG_NAMES[2:])}), or "
    return ""


def _add(total: _Tally, spec: DatasetSpec, tally: _Tally) -> None:
    total.rows += tally.rows
    total.dropped += tally.dropped
    total.bad += tally.bad
    total.notes += tally.notes
    total.notes += [f"{spec.name}: {what} ({count} rows)" for what, count in tally.repairs.items()]
    total.files += [file for file in tally.files if file not in total.files]


def _digest(digest: Any, spec: DatasetSpec, files: Sequence[Path], seed: int) -> None:
    known = spec.identity() | {"seed": seed if spec.num_samples else None}
    digest.update(json.dumps(known, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
