"""JSON and JSON lines to rows. A list is read element by element, so a file may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from burnish.data.places import mark_before, rows_in, walk_lines
from burnish.data.rows import BrokenRow
from burnish.data.text import START, Mark, first_byte, read_chunks, read_lines, utf8_bytes
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
    return sum(not line.isspace() for line in read_lines(path, []))


def rows_of_json(path: Path, enough: int | None = None) -> int | None:
    """How many rows a plain JSON file has; None where `read_json` cannot begin at any of them."""
    return rows_in(path, walk_lines if _is_json_lines(path) else walk_list, enough)


def rows_of_json_lines(path: Path, enough: int | None = None) -> int | None:
    """The same for `read_json_lines`."""
    return rows_in(path, walk_list if _is_json_array(path) else walk_lines, enough)


def rows_of_text(path: Path, enough: int | None = None) -> int | None:
    """The same for a plain text file."""
    return rows_in(path, walk_lines, enough)


def lines_from(path: Path, notes: list[str], start: int) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, from one of them on, each with its number, which counts all from 1."""
    at = mark_before(path, start, walk_lines)
    row = at.rows
    for number, line in enumerate(read_lines(path, notes, at), start=at.lines + 1):
        if line.isspace():
            continue
        if row >= start:
            yield number, line
        row += 1
    if not row:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)


def _lines(path: Path, notes: list[str], start: int, go_on: bool) -> Iterator[Any]:
    load = _loads_or_broken if go_on else _loads
    for number, line in lines_from(path, notes, start):
        yield load(line, path, number)


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
    """A window on the text of a JSON file from a place on. It moves forward and forgets what lies behind."""

    def __init__(self, path: Path, notes: list[str], at: Mark = START) -> None:
        self.path = path
        self.chunks = read_chunks(path, notes, at)
        self.decode = json.JSONDecoder().raw_decode
        self.text = ""
        self.at = 0
        self.line, self.column = at.lines + 1, at.column  # of the first character of the window
        self.byte, self.ascii = at.byte, at.ascii  # where it is, and what lies before it

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
        behind = self.text[: self.at]
        self.byte, self.ascii = self.byte + utf8_bytes(behind), self.ascii and behind.isascii()
        self.text = self.text[self.at :] + "".join(parts)
        self.at = 0
        return True

    def place(self, at: int) -> tuple[int, int]:
        """Line and column, from 1, of a place in the window."""
        breaks = self.text.count("\n", 0, at)
        if breaks:
            return self.line + breaks, at - self.text.rfind("\n", 0, at)
        return self.line, self.column + at

    def mark(self, rows: int) -> Mark:
        """Where the scanner stands, after so many rows."""
        line, column = self.place(self.at)
        behind = self.text[: self.at]
        return Mark(self.byte + utf8_bytes(behind), line - 1, rows, self.ascii and behind.isascii(), column)

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
        yield from self.later_elements()

    def later_elements(self) -> Iterator[Any]:
        """Step over the rest of a list from behind one of its values on."""
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


def walk_list(path: Path, at: Mark, step: int, notes: list[str]) -> Iterator[Mark]:
    """Places behind the rows of a list, as `places.Walk` says. Raises DataError where it is broken."""
    scanner = _Scanner(path, notes, at)
    scanner.byte = at.byte or first_byte(path)
    row, last = at.rows, scanner.byte
    for row, _ in enumerate(_values(scanner, at), start=at.rows + 1):
        if scanner.byte + scanner.at >= last + step:  # as if it were ASCII: the place is no nearer than that
            found = scanner.mark(row)
            last = found.byte
            yield found
    yield scanner.mark(row)


def _elements(path: Path, notes: list[str], start: int) -> Iterator[Any]:
    at = mark_before(path, start, walk_list)
    row = at.rows
    for row, value in enumerate(_values(_Scanner(path, notes, at), at), start=at.rows + 1):
        if row > start:
            yield value
    if not row:
        raise DataError(NO_ROWS, at=str(path), fix=ONE_ROW)


def _values(scanner: _Scanner, at: Mark) -> Iterator[Any]:
    """The rows of a file that is a list, or an object that holds one; `at` is where the scanner was begun."""
    if at.byte:
        yield from scanner.later_elements()
        opening = _Scanner(scanner.path, []).peek()
    else:
        opening = scanner.peek()
        if not opening:
            raise DataError(NO_ROWS, at=str(scanner.path), fix=ONE_ROW)
        _enter_list(scanner, opening)
        yield from scanner.elements()
    if opening == "[":
        scanner.end()


def _enter_list(scanner: _Scanner, opening: str) -> None:
    """Go to the list of rows. Raises DataError where there is none."""
    if opening == "{":
        wanted = _only_list(scanner.path)
        for key in scanner.names():
            if key == wanted:
                break
            scanner.value()
    elif opening != "[":
        value = scanner.value()
        scanner.end()
        kind = {str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise DataError(f"the top level is {kind}", at=str(scanner.path), fix=_SHAPE)


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


def _first_line(path: Path, opening: str) -> tuple[str, bool]:
    """The first line that is not blank, cut after some megabytes, and whether anything but blanks follows it.

    Nothing, where the line does not begin with `opening`.
    """
    text = ""
    for chunk in read_chunks(path, []):
        text = (text + chunk).lstrip()
        if not text.startswith(opening):
            if text:
                break
            continue
        first, newline, rest = text.partition("\n")
        if rest.strip():
            return first.strip(), True
        if len(text) > _PEEK_CHARS:
            return first[:1], not newline
    return (text.strip(), False) if text.startswith(opening) else ("", False)


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_json_lines(path: Path) -> bool:
    first, more = _first_line(path, "{")
    return more and _is_whole(first)


def _is_json_array(path: Path) -> bool:
    first, more = _first_line(path, "[")
    return bool(first) and not (more and _is_whole(first))
