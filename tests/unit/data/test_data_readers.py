"""Files to rows, and what is said of files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.data.iterate import Tally, iter_samples
from burnish.data.peek import natural_stage
from burnish.data.readers import data_files, read_rows
from burnish.data.rows import BrokenRow
from burnish.errors import DataError

ROWS = [{"a": "é"}, {"a": "二"}]


def rows_of(path: Path) -> tuple[list[Any], list[str]]:
    notes: list[str] = []
    return list(read_rows(path, notes)), notes


def failure(path: Path) -> tuple[str, str | None, str | None]:
    with pytest.raises(DataError) as caught:
        rows_of(path)
    return caught.value.what, caught.value.at, caught.value.fix


def test_lists_objects_with_one_list_and_lines(write: Any) -> None:
    assert rows_of(write("a.json", ROWS)) == (ROWS, [])
    assert rows_of(write("b.json", {"version": 1, "data": ROWS})) == (ROWS, [])
    assert rows_of(write("c.jsonl", ROWS)) == (ROWS, [])


def test_a_byte_order_mark_and_blank_lines_do_no_harm(write: Any) -> None:
    mark = b"\xef\xbb\xbf"
    assert rows_of(write("a.json", mark + b'[{"a": 1}]')) == ([{"a": 1}], [])
    assert rows_of(write("b.jsonl", mark + b'{"a": 1}\r\n\r\n  \n{"a": 2}')) == ([{"a": 1}, {"a": 2}], [])


def test_a_wrong_ending_is_read_by_content_and_said(write: Any) -> None:
    assert rows_of(write("a.json", '{"a": 1}\n{"a": 2}\n')) == (
        [{"a": 1}, {"a": 2}],
        ["a.json: holds one JSON object a line, so it is read as .jsonl"],
    )
    assert rows_of(write("b.jsonl", '[\n{"a": 1},\n{"a": 2}]\n')) == (
        [{"a": 1}, {"a": 2}],
        ["b.jsonl: is one JSON list, so it is read as .json"],
    )


def test_lines_are_read_lazily(write: Any) -> None:
    path = write("a.jsonl", '{"a": 1}\n{"a": 2}\nbroken\n')
    rows = read_rows(path, [])
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "content", "what", "place", "fix"),
    [
        ("a.json", "", "the file is empty", "", "put at least one row into it"),
        ("a.json", " \n", "the file has no rows", "", "put at least one row into it"),
        ("a.jsonl", "\n \n", "the file has no rows", "", "put at least one row into it"),
        ("a.json", "[]", "the file has no rows", "", "put at least one row into it"),
        (
            "a.json",
            '[{"a": 1},\n{"a" 2}]',
            "broken JSON: Expecting ':' delimiter",
            ": line 2, column 6",
            "the file must be one JSON list of objects",
        ),
        (
            "a.jsonl",
            '{"a": 1}\n\n{"a": 2',
            "broken JSON: Expecting ',' delimiter",
            ": line 3, column 8",
            "each line must be one JSON object",
        ),
        (
            "a.json",
            '"hello"',
            "the top level is a text",
            "",
            "the file must be a list of objects, or an object that holds one such list",
        ),
        (
            "a.json",
            '{"a": 1}',
            "the top level is an object with no list",
            "",
            "the file must be a list of objects, or an object that holds one such list",
        ),
        (
            "a.json",
            '{"train": [1], "test": [2]}',
            "the top level is an object with 2 lists (train, test)",
            "",
            "the file must be a list of objects, or an object that holds one such list",
        ),
        (
            "a.json",
            b'[{"a":\n"\xff"}]',
            "the file is not UTF-8: byte 0xff",
            ": line 2, byte 8",
            "save the file as UTF-8",
        ),
        (
            "a.jsonl",
            '{"a": "é"}\n'.encode() + '{"a": "你好"}'.encode("gb18030"),
            "the file is not UTF-8: byte 0xc4",
            ": line 2, byte 19",
            "save the file as UTF-8",
        ),
        (
            "a.txt",
            "naïve café".encode("latin-1"),
            "the file is not UTF-8: byte 0xef",
            ": line 1, byte 2",
            "save the file as UTF-8",
        ),
        ("a.jsonl", "abc".encode("utf-32"), "the file is UTF-32", ": byte 0", "save the file as UTF-8"),
        (
            "a.jsonl",
            b"\xff\xfe" + "ab\n".encode("utf-16-le") + b"\x00\xdc",
            "the file is not UTF-16: byte 0x00",
            ": line 2, byte 8",
            "save the file as UTF-8",
        ),
        ("a.csv", "a,b\n", "the file has no rows", "", "the first line names the columns; put a row below it"),
        ("a.csv", "a,a\n1,2\n", "two columns are called 'a'", ": line 1", "name each column in the first line"),
        (
            "a.csv",
            'a,b\n1,2\n"x"y,3\n',
            "broken table: ',' expected after '\"'",
            ": line 3",
            'a field with a comma, quote or newline stands in "…", and a quote in it is doubled',
        ),
        (
            "a.xml",
            "<a/>",
            "files of type '.xml' cannot be read",
            "",
            "the types that can be read: .json, .jsonl, .csv, .tsv, .parquet, .arrow, .txt, each also as .gz or .zst",
        ),
    ],
)
def test_broken_files(write: Any, name: str, content: Any, what: str, place: str, fix: str) -> None:
    assert failure(write(name, content)) == (what, f"data/{name}{place}", fix)


def test_the_line_of_broken_json_far_down(write: Any) -> None:
    path = write("a.jsonl", '{"a": 1}\n' * 70_000 + "{'a': 1}\n" + '{"a": 1}\n')
    assert failure(path)[1] == "data/a.jsonl: line 70001, column 2"


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5000 + "]"])
def test_json_that_python_refuses(write: Any, text: str) -> None:
    assert failure(write("a.json", text))[0].startswith("JSON that cannot be read: ")


def test_a_missing_file_names_its_neighbours(write: Any) -> None:
    write("chats.jsonl", ROWS)
    write("notes.md", "x")
    assert failure(Path("data/chat.jsonl")) == (
        "file not found",
        "data/chat.jsonl",
        "did you mean 'chats.jsonl'?",
    )
    assert failure(Path("data/x.jsonl"))[2] == "the folder has: chats.jsonl"
    assert failure(Path("date/x.jsonl"))[2] == "the folder date does not exist"


def test_a_folder_holds_files_of_one_type(write: Any) -> None:
    first, second = write("set/b.jsonl", ROWS), write("set/a.jsonl", ROWS)
    assert data_files(Path("data/set")) == [second, first]
    write("set/c.json", ROWS)
    with pytest.raises(DataError) as caught:
        data_files(Path("data/set"))
    assert caught.value.what == "the folder mixes file types: .json, .jsonl"
    write("none/readme.md", "x")
    with pytest.raises(DataError) as caught:
        data_files(Path("data/none"))
    assert caught.value.fix == "put .json, .jsonl, .csv, .tsv, .parquet, .arrow, .txt files there"


def test_a_reader_may_go_on_after_lines_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 2}\nno\n', encoding="utf-8")
    rows = list(read_rows(path, [], go_on=True))
    assert rows == [
        {"a": 1},
        BrokenRow("broken JSON", "line 3, column 6: Expecting value"),
        {"a": 2},
        BrokenRow("broken JSON", "line 5, column 1: Expecting value"),
    ]
    with pytest.raises(DataError, match="broken JSON"):
        list(read_rows(path, []))


def test_reports_count_lines_that_are_no_json_and_training_stops_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = '{"instruction": "q", "output": "a"}\n'
    path.write_text(f"{row}{{broken\n{row}", encoding="utf-8")
    tally = Tally()
    assert len(list(iter_samples([str(path)], tmp_path, on_bad_row="report", tally=tally))) == 2
    assert [(bad.row, bad.reason.split(":")[0]) for bad in tally.bad] == [(1, "broken JSON")]
    assert natural_stage(str(path), tmp_path) == "sft"
    with pytest.raises(DataError, match="broken JSON"):
        list(iter_samples([str(path)], tmp_path))


@pytest.mark.parametrize(
    ("line", "mark", "fix"),
    [
        ("instruction;output", "';'", "put commas between fields, or tabs and name the file .tsv"),
        ("instruction|output", "'|'", "put commas between fields, or tabs and name the file .tsv"),
        ("instruction\toutput", "tabs", "name the file .tsv"),
    ],
)
def test_a_table_without_commas(write: Any, line: str, mark: str, fix: str) -> None:
    what = f"the first line names one column, and has {mark} where commas should be"
    assert failure(write("a.csv", f"{line}\nhi;there\n")) == (what, "data/a.csv: line 1", fix)
    assert rows_of(write("b.csv", "text\na;b\n"))[0] == [{"text": "a;b"}]


def test_empty_files_among_others_are_passed_over_and_said(write: Any) -> None:
    row = {"instruction": "q", "output": "a"}
    write("set/1.jsonl", [row])
    write("set/2.jsonl", "")
    write("none/1.jsonl", "")
    tally = Tally()
    assert len(list(iter_samples(["set/"], Path("data"), tally=tally))) == 1
    assert "set/: 1 of 2 files are empty and passed over: 2.jsonl" in tally.notes
    with pytest.raises(DataError, match="the file is empty"):
        list(iter_samples(["none/"], Path("data")))
