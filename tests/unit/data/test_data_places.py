"""Large text files: they are read from any row on, by its place, and divided by rows."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from burnish import cache
from burnish.data import places, text
from burnish.data.corpus import Corpus
from burnish.data.read_json import walk_list
from burnish.data.read_tables import walk_csv, walk_tsv
from burnish.data.readers import count_rows, read_rows, rows_with_places
from burnish.errors import DataError


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Places are kept of lines that are 200 bytes apart, in a cache of this test."""
    monkeypatch.setattr(places, "SPACING_BYTES", 200)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    places._all.cache_clear()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes at which files are begun from here on."""
    found: list[int] = []
    plain = text.read_chunks
    monkeypatch.setattr(text, "read_chunks", lambda path, notes, at: (found.append(at.byte), plain(path, notes, at))[1])
    return found


def corpus(name: str, **more: Any) -> Corpus:
    reading = {"max_samples": None, "seed": 1, "cache_dir": None, "hub_token": None, "ms_hub_token": None}
    return Corpus([name], Path("data"), on_bad_row="drop", **{"stage": "sft", **reading, **more})


def any_lines(rng: random.Random) -> str:
    """Lines with words, blank lines of several kinds, long lines, and none of these at the end."""
    made = []
    for number in range(rng.randint(1, 60)):
        kind = rng.random()
        blank = rng.choice(["", " ", "\t \r", "\x1c", "\u3000", "\x85"])
        words = json.dumps({"text": f"{number} " + rng.choice(["", "ä" * 9, "龍" * 80, "x" * 700])}, ensure_ascii=False)
        made.append(blank if kind < 0.2 else words)
    return "\n".join(made) + rng.choice(["", "\n", "\r\n", "\n \n"])


WORDS = ["", "ä" * 9, "龍" * 80, "x" * 700, '"]},{[\\"', "a\nb\n\nc", 'say "hi", you']


def any_table(rng: random.Random, mark: str) -> str:
    """Rows with quoted newlines, quotes and marks in them, short ones, and blank lines between them."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["text", rng.choice(["more", "mehr\nüber"])])
    for number in range(rng.randint(1, 60)):
        if rng.random() < 0.1:
            out.write("\n")
        writer.writerow([str(number), rng.choice(WORDS)][: rng.choice([1, 2, 2])])
    return out.getvalue()


def any_list(rng: random.Random) -> str:
    """Nested rows, on one line or many, alone or in an object beside other things."""
    rows = [
        {"text": f"{number} " + rng.choice(WORDS), "in": [[], [{"a": rng.choice(WORDS)}, 1.5e3], {}]}
        if rng.random() < 0.9
        else rng.choice([[[1, 2], "]"], number, "]}", None])
        for number in range(rng.randint(1, 60))
    ]
    whole = rows if rng.random() < 0.6 else {"of": {"a": [1]}, "rows": rows, "end": "]"}
    return json.dumps(whole, indent=rng.choice([None, 1, 3]), ensure_ascii=rng.random() < 0.3) + rng.choice(
        ["", "\n \n"]
    )


MADE = {
    "jsonl": any_lines,
    "txt": any_lines,
    "csv": lambda rng: any_table(rng, ","),
    "tsv": lambda rng: any_table(rng, "\t"),
    "json": any_list,
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_file_is_the_same_from_any_row_on(write: Any, kind: str, mark: bytes) -> None:
    rng = random.Random(f"{kind} {mark!r}")
    far = 0
    for case in range(15):
        path = write(f"{case}.{kind}", mark + MADE[kind](rng).encode())
        try:
            whole = list(read_rows(path, []))
        except DataError:  # no row at all
            assert count_rows(path) == 0
            continue
        assert rows_with_places(path) == count_rows(path) == len(whole)
        for start in range(len(whole) + 1):
            assert list(read_rows(path, [], start)) == whole[start:]
        far += len(places._recalled(key_of(path)).marks)
    assert far > 60  # places of which rows were begun


def key_of(path: Path) -> str:
    walks = {".csv": walk_csv, ".tsv": walk_tsv, ".json": walk_list}
    about = path.stat()
    walk = walks.get(path.suffix, places.walk_lines)
    return places._key(path.resolve(), about.st_size, about.st_mtime_ns, walk)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json"])
def test_counting_goes_on_where_it_stopped(write: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume goes through a file up to its row only, the next one from there on, and a division to the end."""
    rows = [f'{{"text": "{number:020}"}}' for number in range(400)]
    made = {"jsonl": "\n".join(rows), "json": "[" + ",\n".join(rows) + "]"}
    path = write(f"a.{kind}", made.get(kind) or "text\n" + "\n".join(f"{number:020}" for number in range(400)))
    begun = []
    walked = places._walked
    monkeypatch.setattr(
        places,
        "_walked",
        lambda path, walk, known, *more: (begun.append(known.rows), walked(path, walk, known, *more))[1],
    )
    for start in (100, 50, 99, 300, 200):
        assert next(read_rows(path, [], start)) == {"text": f"{start:020}"}
    assert rows_with_places(path) == rows_with_places(path, 7) == 400
    assert [number // 100 for number in begun] == [0, 1, 3]
    assert next(read_rows(path, [], 399)) == {"text": f"{399:020}"}
    assert len(begun) == 3


def test_a_row_far_in_is_begun_at_near_by(write: Any, begun: list[int]) -> None:
    path = write("a.txt", "".join(f"{number:09}\n" for number in range(1000)))
    for _ in range(2):  # first it is counted up to there, then it is known
        assert next(iter(read_rows(path, [], 700))) == {"text": "000000700"}
        assert count_rows(path) == 1000
    assert len(begun) == 2
    assert all(7000 - 210 <= byte <= 7000 for byte in begun)


def test_errors_far_in_name_the_line(write: Any) -> None:
    good = '{"text": "twenty bytes and more"}\n'
    path = write("a.jsonl", good * 100 + "\n\n" + good * 50 + "{broken\n")
    for start in (0, 140):
        with pytest.raises(DataError, match="broken JSON") as caught:
            list(read_rows(path, [], start))
        assert caught.value.at == f"{path}: line 153, column 2"


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_errors_far_in_lists_and_tables_name_the_place(write: Any, kind: str) -> None:
    good = '"ä and\n twenty bytes and more",\n' if kind == "csv" else '{"a": ["ä", 1],\n "b": "]"}, '
    text = "a,b\n" + good * 100 + 'x,"y' if kind == "csv" else "[" + good * 100 + "{broken}]"
    path = write(f"a.{kind}", text)
    with pytest.raises(DataError, match="broken") as whole:
        list(read_rows(path, []))
    assert whole.value.at == f"{path}: line " + ("202" if kind == "csv" else "101, column 14")
    for start in (20, 80):
        with pytest.raises(DataError, match="broken") as caught:
            list(read_rows(path, [], start))
        assert str(caught.value) == str(whole.value)
    assert len(places._recalled(key_of(path)).marks) > 10
    with pytest.raises(DataError, match="broken") as caught:
        corpus(f"a.{kind}").divide(2)
    assert caught.value.at == whole.value.at


def test_broken_characters_far_in_name_the_byte(write: Any) -> None:
    path = write("a.txt", b"\xc3\xa4 fine\n" * 100 + b"\xff\n")
    for start in (0, 60):
        with pytest.raises(DataError, match="byte 0xff") as caught:
            list(read_rows(path, [], start))
        assert caught.value.at == f"{path}: line 101, byte 800"
    assert rows_with_places(path) is None


def test_gb18030_that_shows_late_is_still_found(write: Any) -> None:
    path = write("a.txt", ("plain words of ascii\n" * 40 + "你好，今天天气很好。我们去公园\n" * 5).encode("gb18030"))
    notes: list[str] = []
    assert places.mark_before(path, 20, places.walk_lines).byte  # and not the start
    assert list(read_rows(path, notes, 20))[20] == {"text": "你好，今天天气很好。我们去公园"}
    assert notes == ["a.txt: is not UTF-8; read as GB18030"]
    assert rows_with_places(path) is None


def test_a_file_is_counted_once_until_it_changes(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    count = places._walked
    monkeypatch.setattr(places, "_walked", lambda path, *more: (counted.append(path.name), count(path, *more))[1])
    path = write("a.jsonl", [{"text": "some words"}] * 30)
    for _ in range(2):
        assert count_rows(path) == 30
        places._all.cache_clear()  # as another process
    assert counted == ["a.jsonl"]
    write("a.jsonl", [{"text": "some words"}] * 40)
    os.utime(path, ns=(1, 1))
    assert count_rows(path) == 40
    assert counted == ["a.jsonl"] * 2


def test_a_cache_that_cannot_be_written_or_read_costs_time_only(write: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    path = write("a.jsonl", [{"text": "some words"}] * 30)
    assert count_rows(path) == 30
    (tmp_path / "cache").unlink()
    places._all.cache_clear()
    assert count_rows(path) == 30
    (kept,) = cache.counts_folder().iterdir()
    kept.write_text("{torn")
    places._all.cache_clear()
    assert list(read_rows(path, [], 29)) == [{"text": "some words"}]
    assert count_rows(path) == 30


@pytest.mark.parametrize("kind", ["jsonl", "txt", "csv", "tsv", "json", "list.jsonl", "lines.json", "object.json"])
def test_one_file_makes_lanes(write: Any, kind: str) -> None:
    words = [f"{number:03}" for number in range(100)]
    lines = "\n\n".join(json.dumps({"text": word}) for word in words)
    listed = [{"text": word} for word in words]
    made: dict[str, Any] = {
        "txt": "\n\n".join(words),
        "csv": "more,text\n" + "".join(f'"a, b\nc","{word}"\n' for word in words),
        "tsv": "more\ttext\n" + "".join(f"a\t{word}\n" for word in words),
        "json": json.dumps(listed),
        "list.jsonl": json.dumps(listed, indent=1),
        "object.json": {"version": 1, "data": listed},
    }
    write(f"a.{kind}", made.get(kind, lines))
    one = corpus(f"a.{kind}", stage="pt")
    found = sorted((list(one.read(lane, 3)) for lane in range(3)), key=lambda lane: lane[0].row)
    assert [[sample.row for sample in lane] for lane in found] == [
        list(range(*edges)) for edges in ((0, 33), (33, 67), (67, 100))
    ]
    assert all(sample.record.text == f"{sample.row:03}" for lane in found for sample in lane)


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_max_samples_is_divided_without_counting_the_rest(write: Any, kind: str) -> None:
    made = [{"text": f"{number:030}"} for number in range(300)]
    write(f"a.{kind}", made if kind == "json" else "text\n" + "".join(row["text"] + "\n" for row in made))
    one = corpus(f"a.{kind}", stage="pt", max_samples=40)
    found = [[sample.row for sample in one.read(lane, 2)] for lane in range(2)]
    assert sorted(found) == [list(range(20)), list(range(20, 40))]
    assert places._recalled(key_of(Path(f"data/a.{kind}"))).rows < 100
