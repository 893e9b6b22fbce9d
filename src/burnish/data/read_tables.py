"""CSV, TSV and plain text to rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.data.places import Walk, mark_before, rows_in
from burnish.data.read_json import NO_ROWS, ONE_ROW, lines_from
from burnish.data.rows import BrokenRow
from burnish.data.text import START, Mark, first_byte, read_lines, utf8_bytes
from burnish.errors import DataError

_LONGEST_FIELD = 2**31 - 1
_OTHER_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""What stands between the fields of tables that were written for another program."""


def read_csv(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """Rows of texts under the names of the first line; fields with commas or newlines are quoted."""
    yield from _table(path, notes, start, ",", walk_csv)


def read_tsv(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """The same with tabs between the fields."""
    yield from _table(path, notes, start, "\t", walk_tsv)


def read_text(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """One row a line that is not blank, in the column `text`."""
    for _, line in lines_from(path, notes, start):
        yield {"text": line.rstrip("\r\n")}


def rows_of_csv(path: Path, enough: int | None = None) -> int | None:
    """How many rows a plain table has; None where `read_csv` cannot begin at any of them."""
    return rows_in(path, walk_csv, enough)


def rows_of_tsv(path: Path, enough: int | None = None) -> int | None:
    """The same for `read_tsv`."""
    return rows_in(path, walk_tsv, enough)


def walk_csv(path: Path, at: Mark, step: int, notes: list[str]) -> Iterator[Mark]:
    """Places between the rows of a table, as `places.Walk` says. Raises DataError where it is broken."""
    yield from _walk(_Records(path, notes, at, ","), step)


def walk_tsv(path: Path, at: Mark, step: int, notes: list[str]) -> Iterator[Mark]:
    """The same with tabs between the fields."""
    yield from _walk(_Records(path, notes, at, "\t"), step)


class _Records:
    """The records of a table from a place on, each a list of fields; blank lines are none. Knows where it stands."""

    def __init__(self, path: Path, notes: list[str], at: Mark, delimiter: str) -> None:
        csv.field_size_limit(_LONGEST_FIELD)
        self.path, self.at = path, at
        self.byte, self.ascii = at.byte, at.ascii
        self._reader = csv.reader(self._lines(notes), delimiter=delimiter, strict=True)

    @property
    def line(self) -> int:
        """The last line that was read, counted from 1."""
        return self.at.lines + self._reader.line_num

    def _lines(self, notes: list[str]) -> Iterator[str]:
        for line in read_lines(self.path, notes, self.at):
            self.byte += utf8_bytes(line)
            self.ascii = self.ascii and line.isascii()
            yield line

    def __iter__(self) -> Iterator[list[str]]:
        try:
            yield from filter(None, self._reader)
        except csv.Error as error:
            raise DataError(
                f"broken table: {error}",
                at=f"{self.path}: line {self.line}",
                fix='a field with a comma, quote or newline stands in "…", and a quote in it is doubled',
            ) from None


def _walk(records: _Records, step: int) -> Iterator[Mark]:
    row, last = records.at.rows, records.at.byte
    if not last:
        records.byte = first_byte(records.path)
        next(iter(records), None)  # the names
    for row, _ in enumerate(records, start=records.at.rows + 1):
        if records.byte >= last + step:
            last = records.byte
            yield Mark(last, records.line, row, records.ascii)
    yield Mark(records.byte, records.line, row, records.ascii)


def _table(path: Path, notes: list[str], start: int, delimiter: str, walk: Walk) -> Iterator[Any]:
    at = mark_before(path, start, walk)
    records = _Records(path, notes, at, delimiter)
    header = _header(next(iter(_Records(path, [], START, delimiter) if at.byte else records), []), path)
    if delimiter == "," and len(header) == 1:
        _check_comma(header[0], path)
    row = at.rows
    for row, fields in enumerate(records, start=at.rows + 1):
        if row > start:
            yield _row(fields, header, records.line)
    if not row:
        raise DataError(NO_ROWS, at=str(path), fix="the first line names the columns; put a row below it")


def _header(names: list[str], path: Path) -> list[str]:
    if not names:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"two columns are called '{twice[0]}'", at=f"{path}: line 1", fix="name each column in the first line"
        )
    return names


def _check_comma(name: str, path: Path) -> None:
    """Raise DataError where the only column's name looks like several."""
    for mark, spoken in _OTHER_MARKS.items():
        if mark in name:
            raise DataError(
                f"the first line names one column, and has {spoken} where commas should be",
                at=f"{path}: line 1",
                fix="name the file .tsv"
                if mark == "\t"
                else "put commas between fields, or tabs and name the file .tsv",
            )


def _row(fields: list[str], header: list[str], line: int) -> Any:
    if len(fields) > len(header):
        return BrokenRow("too many fields", f"line {line} has {len(fields)}, the first line names {len(header)}")
    return dict(zip(header, fields, strict=False))
