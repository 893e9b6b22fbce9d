"""CSV, TSV and plain text to rows."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.data.lines import mark_before
from burnish.data.read_json import NO_ROWS, ONE_ROW
from burnish.data.rows import BrokenRow
from burnish.data.text import read_lines
from burnish.errors import DataError

_LONGEST_FIELD = 2**31 - 1
_OTHER_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""What stands between the fields of tables that were written for another program."""


def read_csv(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """Rows of texts under the names of the first line; fields with commas or newlines are quoted."""
    yield from _table(path, notes, start, ",")


def read_tsv(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """The same with tabs between the fields."""
    yield from _table(path, notes, start, "\t")


def read_text(path: Path, notes: list[str], start: int = 0) -> Iterator[Any]:
    """One row a line that is not blank, in the column `text`."""
    at = mark_before(path, start)
    row = at.rows
    for line in read_lines(path, notes, at):
        if line.isspace():
            continue
        if row >= start:
            yield {"text": line.rstrip("\r\n")}
        row += 1
    if not row:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)


def _table(path: Path, notes: list[str], start: int, delimiter: str) -> Iterator[Any]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(read_lines(path, notes), delimiter=delimiter, strict=True)
    row = 0
    try:
        header = _header(next((fields for fields in reader if fields), []), path)
        if delimiter == "," and len(header) == 1:
            _check_comma(header[0], path)
        for fields in reader:
            if not fields:
                continue
            if row >= start:
                yield _row(fields, header, reader.line_num)
            row += 1
    except csv.Error as error:
        raise DataError(
            f"broken table: {error}",
            at=f"{path}: line {reader.line_num}",
            fix='a field with a comma, quote or newline stands in "…", and a quote in it is doubled',
        ) from None
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
