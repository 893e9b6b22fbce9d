"""JSON and JSON lines to rows. A list is read element by element, so a file may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from burnish.data.lines import lines_of, mark_before
from burnish.data.rows import BrokenRow
from burnish.data.text import read_chunks, read_lines
from burnish.errors import DataError

NO_ROWS = "the file has no rows"
ONE_ROW = "put at least one row into it"
_SHAPE = "the file must be a list of objects, or an object that holds one such list"
_PEEK_CHARS = 1 << 24
_SPACE = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""An error this near to the end of the text at hand may only mean that the rest is not read yet."""


def read_json(path: Path, notes: list[str], start: int = 0, *, go_on: bool = False) -> Iterator[Any]:
    """A list of rows, or an object that holds exactly one list. JSON lines are recognised too.

    `go_on`: a line that is no JSON is a BrokenRow, and the lines after it are read.
    """
    if _is_json_lines(path):
        notes.append(f"{path.name}: holds one JSON object a line, so it is read as .jsonl")
        yield from _lines(path, notes, start, go_on)
    else:
        yield from _elements(path, notes, start)


def read_json_lines(path: Path, notes: list[str], start: int = 0, *, go_on: bool = False) -> Iterator[Any]:
    """One row a line; blank lines are skipped. A .jsonl file that is one JSON list is read as such.

    `go_on` as in `read_json`.
    """
    if _is_json_array(path):
        notes.append(f"{path.name}: is one JSON list, so it is read as .json")
        yield from _elements(path, notes, start)
    else:
        yield from _lines(path, notes, start, go_on)


def count_json_lines(path: Path) -> int:
    """How many rows `read_json_lines` gives; lines are not parsed."""
    if _is_json_array(path):
        return sum(1 for _ in _elements(path, [], 0))
    return count_text_lines(path)


def count_text_lines(path: Path) -> int:
    """How many lines of a file are not blank."""
    known = lines_of(path)
    return known.rows if known else sum(not line.isspace() for line in read_lines(path, []))


def rows_of_json_lines(path: Path) -> int | None:
    """How many rows a plain file of JSON lines has; None where `read_json_lines` cannot begin at any of them."""
    return None if _is_json_array(path) else rows_of_text(path)


def rows_of_text(path: Path) -> int | None:
    """The same for a plain text file."""
    known = lines_of(path)
    return known.rows if known else None


def _lines(path: Path, notes: list[str], start: int, go_on: bool) -> Iterator[Any]:
    at = mark_before(path, start)
    row = at.rows
    for number, line in enumerate(read_lines(path, notes, at), start=at.lines + 1):
        if line.isspace():
            continue
        if row >= start:
            yield _loads_or_broken(line, path, number) if go_on else _loads(line, path, number)
        row += 1
    if not row:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)


def _loads_or_broken(line: str, path: Path, number: int) -> Any:
    try:
        return _loads(line, path, number)
    except DataError as error:
        where = (error.at or "").removeprefix(f"{path}: ")
        return BrokenRow("broken JSON", f"{where}: {error.what.removeprefix('broken JSON: ')}")


def _loads(line: str, path: Path, number: int) -> Any:
    at = f"{path}: line {number}"
    try:
        return json.loads(line)
    except JSONDecodeError as error:
        raise DataError(
            f"broken JSON: {error.msg}",
            at=f"{at}, column {min(error.pos, len(line.rstrip())) + 1}",
            fix="each line must be one JSON object",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"JSON that cannot be read: {error}", at=at) from None


class _Scanner:
    """A window on the text of a JSON file. It moves forward and forgets what lies behind."""

    def __init__(self, path: Path, notes: list[str]) -> None:
        self.path = path
        self.chunks = read_chunks(path, notes)
        self.decode = json.JSONDecoder().raw_decode
        self.text = ""
        self.at = 0
        self.line, self.column = 1, 1  # of the first character of the window

    def more(self) -> bool:
        """Read on; False at the end of the file. The window at least doubles, so that long values stay cheap."""
        wanted = max(1, len(self.text) - self.at)
        parts: list[str] = []
        while sum(map(len, parts)) < wanted:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            parts.append(chunk)
        if not parts:
            return False
        self.line, self.column = self.place(self.at)
        self.text = self.text[self.at :] + "".join(parts)
        self.at = 0
        return True

    def place(self, at: int) -> tuple[int, int]:
        """Line and column, from 1, of a place in the window."""
        breaks = self.text.count("\n", 0, at)
        if breaks:
            return self.line + breaks, at - self.text.rfind("\n", 0, at)
        return self.line, self.column + at

    def peek(self) -> str:
        """The next character that is not a space, or nothing at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def expect(self, *wanted: str) -> str:
        """Step over one of these characters."""
        found = self.peek()
        if found not in wanted or not found:
            raise self.error(f"Expecting '{wanted[0]}' delimiter", self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Step over one value."""
        self.peek()
        while True:
            try:
                found, end = self.decode(self.text, self.at)
            except JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or len(self.text) - error.pos < _NEAR_END
                if cut_off and self.more():
                    continue
                raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                where = f"{self.path}: line {self.place(self.at)[0]}"
                raise DataError(f"JSON that cannot be read: {error}", at=where) from None
            # A number this near to the end of the window may go on: 1e is a 1 until the exponent is read.
            if len(self.text) - end >= _NEAR_END or not self.more():
                self.at = end
                return found

    def elements(self) -> Iterator[Any]:
        """Step over a list, giving its values."""
        self.expect("[")
        if self.peek() == "]":
            self.at += 1
            return
        yield self.value()
        while self.expect(",", "]") == ",":
            yield self.value()

    def names(self) -> Iterator[str]:
        """Step over an object, giving its keys; who asks must step over each value."""
        self.expect("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise self.error("Expecting property name enclosed in double quotes", self.at)
            key = self.value()
            self.expect(":")
            yield key
            if self.expect(",", "}") == "}":
                return

    def end(self) -> None:
        """Raise DataError where anything follows."""
        if self.peek():
            raise self.error("Extra data", self.at)

    def error(self, message: str, at: int) -> DataError:
        line, column = self.place(at)
        return DataError(
            f"broken JSON: {message}",
            at=f"{self.path}: line {line}, column {column}",
            fix="the file must be one JSON list of objects",
        )


def _elements(path: Path, notes: list[str], start: int) -> Iterator[Any]:
    scanner = _Scanner(path, notes)
    opening = scanner.peek()
    if not opening:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)
    if opening == "{":
        wanted = _only_list(path)
        for key in scanner.names():
            if key == wanted:
                break
            scanner.value()
    elif opening != "[":
        value = scanner.value()
        scanner.end()
        kind = {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise DataError(f"the top level is {kind}", at=str(path), fix=_SHAPE)
    empty = True
    for row, value in enumerate(scanner.elements()):
        empty = False
        if row >= start:
            yield value
    if empty:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)
    if opening == "[":
        scanner.end()


def _only_list(path: Path) -> str:
    """The key of the one list in an object. The file is gone through once before its rows are given."""
    scanner, lists = _Scanner(path, []), []
    for key in scanner.names():
        if scanner.peek() == "[":
            lists.append(key)
            for _ in scanner.elements():
                pass
        else:
            scanner.value()
    scanner.end()
    if len(lists) != 1:
        found = f"{len(lists)} lists ({', '.join(lists[:6])})" if lists else "no list"
        raise DataError(f"the top level is an object with {found}", at=str(path), fix=_SHAPE)
    return lists[0]


def _first_line(path: Path) -> tuple[str, bool]:
    """The first line that is not blank, cut after some megabytes, and whether anything but blanks follows it."""
    text = ""
    for chunk in read_chunks(path, []):
        text = (text + chunk).lstrip()
        first, newline, rest = text.partition("\n")
        if rest.strip():
            return first.strip(), True
        if len(text) > _PEEK_CHARS:
            return first[:1], not newline
    return text.strip(), False


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_json_lines(path: Path) -> bool:
    first, more = _first_line(path)
    return more and first.startswith("{") and _is_whole(first)


def _is_json_array(path: Path) -> bool:
    first, more = _first_line(path)
    return first.startswith("[") and not (more and _is_whole(first))
