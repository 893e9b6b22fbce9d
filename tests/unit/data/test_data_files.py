"""Every file type, compression and encoding to the same rows; starting in the middle; folders and patterns."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data import text
from burnish.data.load import load_samples
from burnish.data.readers import data_files, read_rows
from burnish.data.rows import BrokenRow
from burnish.errors import DataError

ROWS = [{"text": f"row {number}, é 二"} for number in range(700)]


def write_json(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def write_object(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps({"version": 1, "data": rows, "end": {"x": None}}), encoding="utf-8")


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def write_text(path: Path, rows: list[Any]) -> None:
    path.write_text("\n\n".join(row["text"] for row in rows) + "\r\n", encoding="utf-8")


def write_table(path: Path, rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ["text"], delimiter="\t" if ".tsv" in path.name else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Any]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=300)


def write_stream(path: Path, rows: list[Any]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def write_arrow_file(path: Path, rows: list[Any]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


WRITERS: dict[str, tuple[str, Callable[[Path, list[Any]], None]]] = {
    "json": ("a.json", write_json),
    "object": ("a.json", write_object),
    "jsonl": ("a.jsonl", write_lines),
    "lines in json": ("a.json", write_lines),
    "list in jsonl": ("a.jsonl", write_json),
    "csv": ("a.csv", write_table),
    "tsv": ("a.tsv", write_table),
    "txt": ("a.txt", write_text),
    "parquet": ("a.parquet", write_parquet),
    "arrow stream": ("a.arrow", write_stream),
    "arrow file": ("a.arrow", write_arrow_file),
}


def packed(path: Path, packing: str) -> Path:
    """The file as it is, or compressed; a compressed one is written in two frames, which readers must go on over."""
    if not packing:
        return path
    data = path.read_bytes()
    half = len(data) // 2
    pack = gzip.compress if packing == ".gz" else lambda part: pa.Codec("zstd").compress(part, asbytes=True)
    result = path.with_name(path.name + packing)
    result.write_bytes(b"".join(pack(part) for part in (data[:half], data[half:])))
    return result


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", WRITERS)
def test_all_types_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packing: str) -> None:
    monkeypatch.setattr(text, "_CHUNK_BYTES", 1000)
    name, writer = WRITERS[kind]
    writer(tmp_path / name, ROWS)
    path = packed(tmp_path / name, packing)
    assert list(read_rows(path, [])) == ROWS
    for start in (1, 300, 301, 699, 700, 900):
        assert list(read_rows(path, [], start)) == ROWS[start:]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_the_size_of_the_pieces_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rows = [{"a": 'x"y\\\n', "b": [1, -2.5e3, True, None]}, 12, -0.5, "é二", [], {}, "😀", 1e100, [[[]]]]
    path = tmp_path / "a.json"
    monkeypatch.setattr(text, "_CHUNK_BYTES", chunk)
    for written in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=2), f' {{"d": {json.dumps(rows)} }}'):
        path.write_text(written, encoding="utf-8", newline="")
        assert list(read_rows(path, [])) == rows


@pytest.mark.parametrize(
    ("content", "what", "place"),
    [
        ('[{"a": 1},\n {"a": 2}', "Expecting ',' delimiter", "line 2, column 10"),
        ('[{"a": 1},\n]', "Expecting value", "line 2, column 1"),
        ('[{"a": 1}]\n x', "Extra data", "line 2, column 2"),
        ('[{"a": 1} {"a": 2}]', "Expecting ',' delimiter", "line 1, column 11"),
        ('[{"a": "x\ny"}]', "Invalid control character at", "line 1, column 10"),
        ('[{"a": "x', "Unterminated string starting at", "line 1, column 8"),
        ('{"a": [1], b: 2}', "Expecting property name enclosed in double quotes", "line 1, column 12"),
        ('{"a" [1]}', "Expecting ':' delimiter", "line 1, column 6"),
        ('{"a": [1]', "Expecting ',' delimiter", "line 1, column 10"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_where_json_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, content: str, what: str, place: str
) -> None:
    monkeypatch.setattr(text, "_CHUNK_BYTES", chunk)
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(read_rows(path, []))
    assert (caught.value.what, caught.value.at) == (f"broken JSON: {what}", f"{path}: {place}")


def test_broken_json_in_the_middle_of_a_big_file_is_found_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1},\n{"a" 2},\n' + '{"a": 3},\n' * 400_000 + '{"a": 4}]', encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        list(read_rows(path, []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.at == f"{path}: line 2, column 6"
    assert peak < 2_500_000


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "txt", "parquet", "arrow stream"])
def test_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    name, writer = WRITERS[kind]
    writer(tmp_path / name, [{"text": f"{number} " + "x" * 400} for number in range(20_000)])
    assert (tmp_path / name).stat().st_size > 50_000
    next(read_rows(tmp_path / name, []))  # what the imports take does not count
    tracemalloc.start()
    assert sum(1 for _ in read_rows(tmp_path / name, [])) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_500_000


CHINESE = [{"text": "Hello"}, {"text": "你好，世界。今天天气很好。"}, {"text": "再见"}]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "a.jsonl: read as UTF-16, by its byte order mark"),
        ("gb18030", "a.jsonl: is not UTF-8; read as GB18030"),
    ],
)
def test_encodings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, encoding: str, note: str | None
) -> None:
    if encoding in ("utf-8-sig", "utf-16"):  # the mark must lie within the first piece
        chunk = max(chunk, 3)
    monkeypatch.setattr(text, "_CHUNK_BYTES", chunk)
    path = tmp_path / "a.jsonl"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in CHINESE)
    path.write_bytes(lines.encode(encoding))
    notes: list[str] = []
    assert list(read_rows(path, notes)) == CHINESE
    assert notes == ([note] if note else [])


def test_a_csv_field_may_hold_commas_quotes_and_newlines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('q,a\r\n"1, 2","say ""hi""\nnow"\r\n\r\nx\r\n1,2,3\r\n', encoding="utf-8", newline="")
    assert list(read_rows(path, [])) == [
        {"q": "1, 2", "a": 'say "hi"\nnow'},
        {"q": "x"},
        BrokenRow("too many fields", "line 6 has 3, the first line names 2"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl.gz", b"plain", "the gzip data is broken: Not a gzipped file (b'pl')"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:-20], "the gzip data is broken: "),
        ("a.jsonl.zst", b"plain text", "the zstd data is broken: "),
        ("a.jsonl.zst", pa.Codec("zstd").compress(b'{"a": 1}\n' * 1000, asbytes=True)[:-5], "the zstd data is broken"),
        ("a.parquet", b"PAR1 and then nothing", "the file cannot be read as Parquet: "),
        ("a.arrow", b"ARROW1 and then nothing", "the file cannot be read as Arrow: "),
        ("a.arrow", b"something else altogether", "the file cannot be read as Arrow: "),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, []))
    assert caught.value.what.startswith(what)
    assert caught.value.at == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_tables_without_rows(tmp_path: Path, kind: str) -> None:
    name, writer = WRITERS[kind]
    writer(tmp_path / name, [])
    with pytest.raises(DataError, match="the file has no rows"):
        list(read_rows(tmp_path / name, []))


def test_arrow_values_become_plain_ones(tmp_path: Path) -> None:
    rows = [
        {"calls": [{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {"y": "z"}}], "none": None},
        {"calls": [], "none": None},
    ]
    other = {
        "when": [datetime.date(2024, 1, 2), None],
        "price": [decimal.Decimal("1.50"), None],
        "raw": [b"text", b"\xff"],
        "words": pa.array(["a", "a"]).dictionary_encode(),
        "pairs": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
    table = pa.Table.from_pylist(rows)
    for name, values in other.items():
        table = table.append_column(name, pa.array(values) if isinstance(values, list) else values)
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read_rows(tmp_path / "a.parquet", [])
    # Arrow alone would give both calls an x and a y.
    assert first == rows[0] | {"when": "2024-01-02", "price": "1.50", "raw": "text", "words": "a", "pairs": {"k": 1}}
    assert second == rows[1] | {"when": None, "price": None, "raw": b"\xff", "words": "a", "pairs": None}


def test_values_that_python_has_no_form_for(tmp_path: Path) -> None:
    far = pa.array([10**15], pa.timestamp("s"))
    broken = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    for name, column in (("far", far), ("broken", broken)):
        with pa.ipc.new_file(str(tmp_path / f"{name}.arrow"), pa.schema([("x", column.type)])) as writer:
            writer.write_table(pa.table({"x": column}))
        with pytest.raises(DataError, match="the file cannot be read as Arrow"):
            list(read_rows(tmp_path / f"{name}.arrow", []))


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow", "cache-1.arrow"):
            write_stream(folder / name, ROWS[:3])
        files = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in (0, 1)]
        (folder / "state.json").write_text(json.dumps({"_data_files": files}), encoding="utf-8")
        (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    saved = tmp_path / "saved"
    assert [file.name for file in data_files(saved / "train")] == [entry["filename"] for entry in files]
    (saved / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    assert data_files(saved, "test") == data_files(saved / "test")
    with pytest.raises(DataError) as caught:
        data_files(saved, "tset")
    assert caught.value.what == "the saved dataset has no split 'tset'"
    assert caught.value.fix == "set split: did you mean 'test'?"


def test_folders_and_patterns(write: Any) -> None:
    inner = write("set/b/2.jsonl", ROWS[:1])
    zipped = write("set/c.jsonl.gz", gzip.compress(b'{"text": "x"}\n'))
    first, second = write("set/a.jsonl", ROWS[:1]), write("set/b/1.jsonl", ROWS[:1])
    write("set/.hidden/3.jsonl", ROWS[:1])
    write("set/.x.jsonl", ROWS[:1])
    write("set/dataset_info.json", {})
    write("set/README.md", "x")
    assert data_files(Path("data/set")) == [first, zipped, second, inner]
    assert data_files(Path("data/set/b/*.jsonl")) == [second, inner]
    assert data_files(Path("data/set/**/*.jsonl")) == [first, second, inner]
    with pytest.raises(DataError) as caught:
        data_files(Path("data/set/*.csv"))
    assert str(caught.value).startswith("no file matches the pattern\n  at: data/set/*.csv\n  fix: the folder has: ")
    write("set/d.csv", "text\nx\n")
    with pytest.raises(DataError) as caught:
        data_files(Path("data/set/*"))
    assert caught.value.what == "the pattern matches several file types: .csv, .jsonl, .md"
    with pytest.raises(DataError) as caught:
        data_files(Path("data/set"))
    assert caught.value.what == "the folder mixes file types: .csv, .jsonl"
    assert caught.value.fix == "name one type, as '*.csv', or one file"


def test_a_pattern_does_not_take_the_registry_for_data(write: Any) -> None:
    write("a.json", [{"a": 1}])
    path = write("dataset_info.json", {"a": {"file_name": "a.json"}})
    assert [file.name for file in data_files(path.parent / "*.json")] == ["a.json"]


def test_a_folder_with_training_and_test_files_is_read_whole_and_says_so(write: Any) -> None:
    row = '{"instruction": "q", "output": "a"}\n'
    folder = write("set/train.jsonl", row).parent
    assert load_samples([f"{folder}/"], folder).notes == [
        f"{folder}/: read as alpaca, by its first rows (instruction, output)"
    ]
    write("set/test.jsonl", row)
    assert f"{folder}/: all 2 files are read, of test and train; name one file to read less" in (
        load_samples([f"{folder}/"], folder).notes
    )


def test_a_folder_named_without_a_slash_says_how(write: Any) -> None:
    folder = write("set/train.jsonl", "{}").parent
    with pytest.raises(DataError, match="'set' is a folder") as caught:
        load_samples(["set"], folder.parent)
    assert caught.value.fix == "write 'set/' to read the files in it"
