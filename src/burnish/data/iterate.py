"""Datasets to samples, one after the other, with flat memory; what is dropped is counted and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from burnish.data.checks import STAGE_RECORD, Seen, check_columns, check_stage
from burnish.data.converters import CONVERTERS, Converter
from burnish.data.detect import detect
from burnish.data.records import Sample
from burnish.data.registry import resolve
from burnish.data.rows import BadRow, BrokenRow, kind_of
from burnish.data.sources import source_stretches
from burnish.data.spec import TAG_NAMES, DatasetSpec
from burnish.data.split import choose
from burnish.data.stretches import Stretch, files_of
from burnish.errors import DataError

BAD_ROWS_LISTED = 20
BAD_SHARE = 0.05
HEAD = 1000
Placed = tuple[Path, int, Any]
"""A file, the number of a row in it, and the row."""


class NamedBadRow(NamedTuple):
    """A row that was dropped; `row` counts from 0 in its file."""

    dataset: str
    file: str
    row: int
    reason: str


@dataclass(slots=True)
class Tally:
    """What is counted while datasets are read.

    Args:
        rows: rows that were looked at, bad ones included.
        kept: rows that became records.
        dropped: reason → number of rows.
        bad: the first of them.
        repairs: what was mended → number of rows.
        notes: what the user should know.
        files: every file that is read.
        stretches: the rows of these files that belong to the data, where it is one dataset.
        read: the datasets, as they were understood, each with its files.
        listed: how many bad rows `bad` may hold.
    """

    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[NamedBadRow] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    read: list[tuple[DatasetSpec, list[Path]]] = field(default_factory=list)
    listed: int = BAD_ROWS_LISTED

    def drop(self, spec: DatasetSpec, file: Path, row: int, bad: BadRow) -> None:
        """Count a bad row, and name it while there is room."""
        self.dropped[bad.reason] += 1
        if len(self.bad) < self.listed:
            self.bad.append(NamedBadRow(spec.name, str(file), row, str(bad)))

    def add(self, spec: DatasetSpec, part: Tally) -> None:
        """Take in the counts of one dataset."""
        self.rows += part.rows
        self.kept += part.kept
        self.dropped += part.dropped
        self.bad += part.bad[: self.listed - len(self.bad)]
        self.repairs += part.repairs
        self.notes += part.notes
        self.notes += [f"{spec.name}: {what} ({count} rows)" for what, count in part.repairs.items()]
        self.files += [file for file in part.files if file not in self.files]
        self.read.append((spec, part.files))


@dataclass(frozen=True, slots=True)
class Options:
    """What decides which rows are read and what becomes of them; the fields are those of `iter_samples`."""

    stage: str
    max_samples: int | None
    on_bad_row: str
    seed: int
    cache_dir: Path | None
    hub_token: str | None
    ms_hub_token: str | None
    max_files: int | None = None

    @property
    def record(self) -> str:
        return STAGE_RECORD[self.stage]


def iter_samples(
    names: Sequence[str],
    dataset_dir: Path,
    *,
    stage: str = "sft",
    max_samples: int | None = None,
    on_bad_row: Literal["drop", "error", "report"] = "drop",
    seed: int = 42,
    cache_dir: Path | None = None,
    hub_token: str | None = None,
    ms_hub_token: str | None = None,
    max_files: int | None = None,
    tally: Tally | None = None,
) -> Iterator[Sample]:
    """The samples of datasets, one at a time; the arguments are those of `load_samples`.

    `on_bad_row` may also be `report`: bad rows are counted, and never too many.

    Names are looked up at once; files are opened as they are come to. A dataset with `num_samples` is gone through
    twice, since which rows are taken depends on how many there are.

    Args:
        tally: gets the counts and notes of each dataset once its last sample is taken.
    Raises:
        DataError: at once for a name or stage that does not fit, else while samples are taken. That too many rows
            of a dataset are bad shows at its end.
    """
    total = Tally() if tally is None else tally
    specs = resolved(names, dataset_dir, stage, total.notes)
    options = Options(stage, max_samples, on_bad_row, seed, cache_dir, hub_token, ms_hub_token, max_files)
    return _all_samples(specs, options, total)


def resolved(names: Sequence[str], dataset_dir: Path, stage: str, notes: list[str]) -> list[DatasetSpec]:
    """The datasets that are named. Raises DataError for a name that is unknown or does not fit the stage."""
    if not names:
        raise DataError("no dataset is named", at="dataset", fix="set dataset to a name or a file")
    specs = [resolve(name, dataset_dir) for name in names]
    for spec in specs:
        if spec.formatting is not None:
            check_stage(spec, stage)
    for name, count in Counter(names).items():
        if count > 1:
            notes.append(f"{name}: named {count} times, so its rows are used {count} times")
    return specs


def _all_samples(specs: Sequence[DatasetSpec], options: Options, total: Tally) -> Iterator[Sample]:
    for spec in specs:
        part = Tally(listed=total.listed)
        try:
            part.stretches = stretches_of(spec, options, part.notes)
            part.files = files_of(part.stretches)
            spec, head, rows = begin(spec, options, part)
            samples = converted(spec, chain(head, rows), options, part, seen_in(head, spec, options), whole=True)
            yield from _drawn(spec, samples, options, part) if spec.num_samples else samples
        finally:
            total.add(spec, part)


def stretches_of(spec: DatasetSpec, options: Options, notes: list[str]) -> list[Stretch]:
    """The rows of files that make up a dataset, fetched where they lie elsewhere."""
    token = options.ms_hub_token if spec.source_kind == "ms_hub" else options.hub_token
    return source_stretches(spec, notes, options.cache_dir, token, options.max_files)


def begin(spec: DatasetSpec, options: Options, part: Tally) -> tuple[DatasetSpec, list[Placed], Iterator[Placed]]:
    """Read the first rows of `part.stretches`, and tell the format from them where it is not known."""
    rows = placed_rows(part, part.stretches, go_on=options.on_bad_row == "report")
    head = list(islice(rows, HEAD))
    if spec.formatting is None:
        spec, guessed = detect([row for _, _, row in head], spec, STAGE_RECORD.get(options.stage))
        part.notes.append(guessed)
        check_stage(spec, options.stage)
    return spec, head, rows


def placed_rows(part: Tally, stretches: Sequence[Stretch], *, go_on: bool) -> Iterator[Placed]:
    """The rows of stretches, each with its file and its number there."""
    for stretch in stretches:
        for index, row in stretch.rows(part.notes, go_on=go_on):
            yield stretch.file, index, row


def seen_in(head: Sequence[Placed], spec: DatasetSpec, options: Options) -> Seen:
    """The keys of the first rows. Raises DataError where a column is in none of them that each row must have."""
    seen = Seen()
    for _, _, row in head:
        seen.add(row, spec)
    check_columns(spec, seen, options.record, whole=len(head) < HEAD)
    return seen


def converted(
    spec: DatasetSpec, rows: Iterator[Placed], options: Options, part: Tally, seen: Seen, *, whole: bool
) -> Iterator[Sample]:
    """The samples that rows of one dataset become; bad ones are counted, and too many of them are an error.

    Args:
        part: its counts go on from what they are.
        whole: these are all rows of the dataset, so that at their end a column that none of them has is an error.
    """
    convert: Converter = CONVERTERS.get(f"{spec.formatting}/{options.record}")
    limit = None if spec.num_samples else options.max_samples
    for file, index, row in rows if limit is None else islice(rows, limit - part.rows):
        part.rows += 1
        if whole:
            seen.add(row, spec)
        try:
            record = convert(_checked(row), spec, part.repairs)
        except BadRow as bad:
            if options.on_bad_row == "error":
                raise _first_bad(file, index, bad) from None
            part.drop(spec, file, index, bad)
            continue
        part.kept += 1
        yield Sample(record, spec.name, index, str(file))
    if whole and (limit is None or part.rows < limit):
        check_columns(spec, seen, options.record, whole=True)
    if options.on_bad_row != "report":
        _check_dropped(spec, part)
    if whole and options.record not in ("prompt", "document"):  # a prompt keeps every column, a document wants only one
        part.notes += seen.unread(spec)


def _checked(row: Any) -> Mapping[str, Any]:
    if type(row) is dict:
        return row
    if isinstance(row, BrokenRow):
        raise BadRow(row.reason, detail=row.detail)
    if not isinstance(row, Mapping):
        raise BadRow("row is not an object", detail=kind_of(row))
    return row


def _drawn(spec: DatasetSpec, samples: Iterator[Sample], options: Options, part: Tally) -> Iterator[Sample]:
    """A random part of a dataset: count its usable rows, draw, and read it again."""
    assert spec.num_samples is not None
    for _ in samples:
        pass
    drawn = choose(part.kept, spec.num_samples, options.seed, spec.name)[: options.max_samples]
    wanted = Counter(drawn)
    again = Tally(files=part.files, stretches=part.stretches)
    _, head, rows = begin(spec, options, again)
    seen = seen_in(head, spec, options)
    for position, sample in enumerate(converted(spec, chain(head, rows), options, again, seen, whole=True)):
        for _ in range(wanted[position]):
            yield sample


def _first_bad(file: Path, row: int, bad: BadRow) -> DataError:
    at = f"{file}: row {row}" + (f", {bad.key}" if bad.key else "")
    what = bad.reason + (f": {bad.detail}" if bad.detail else "")
    return DataError(what, at=at, fix="mend or remove the row, or set on_bad_row: drop (rows count from 0)")


def _check_dropped(spec: DatasetSpec, part: Tally) -> None:
    """Raise DataError where no row is usable, or more than one and more than 5% of the rows are bad."""
    bad = part.dropped.total()
    if part.kept and (bad <= 1 or bad <= BAD_SHARE * part.rows):
        return
    reasons = ", ".join(f"{reason} ({count})" for reason, count in part.dropped.most_common(6))
    several = len({found.file for found in part.bad}) > 1
    first = "; ".join(
        f"{f'{Path(found.file).name}, ' if several else ''}row {found.row}: {found.reason}" for found in part.bad[:5]
    )
    few = f"{bad} of {part.rows} rows ({100 * bad / max(part.rows, 1):.1f}%) of '{spec.name}' cannot be used"
    none = f"none of the {part.rows} rows of '{spec.name}' can be used"
    raise DataError(
        f"{few if part.kept else none}: {reasons}",
        at=part.bad[0].file if part.bad else spec.where(),
        fix=f"{_hint(spec, part)}mend or remove these rows (they count from 0): {first}",
    )


def _hint(spec: DatasetSpec, part: Tally) -> str:
    if "unknown role" in part.dropped and spec.formatting == "sharegpt":
        return f"name the roles under tags ({', '.join(TAG_NAMES[2:])}), or "
    return ""
