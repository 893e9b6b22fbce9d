"""Large files of lines: they are read from any row on, by its place, and divided by rows."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from burnish import cache
from burnish.data import lines, read_json, text
from burnish.data.corpus import Corpus, Undivided
from burnish.data.readers import count_rows, read_rows
from burnish.errors import DataError


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Places are kept of lines that are 200 bytes apart, in a cache of this test."""
    monkeypatch.setattr(lines, "SPACING_BYTES", 200)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    lines._known.cache_clear()


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


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_file_is_the_same_from_any_row_on(write: Any, kind: str, mark: bytes) -> None:
    rng = random.Random(f"{kind} {mark!r}")
    for case in range(15):
        path = write(f"{case}.{kind}", mark + any_lines(rng).encode())
        try:
            whole = list(read_rows(path, []))
        except DataError:  # no row at all
            assert count_rows(path) == 0
            continue
        assert count_rows(path) == len(whole)
        for start in range(len(whole) + 1):
            assert list(read_rows(path, [], start)) == whole[start:]


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


def test_broken_characters_far_in_name_the_byte(write: Any) -> None:
    path = write("a.txt", b"\xc3\xa4 fine\n" * 100 + b"\xff\n")
    for start in (0, 60):
        with pytest.raises(DataError, match="byte 0xff") as caught:
            list(read_rows(path, [], start))
        assert caught.value.at == f"{path}: line 101, byte 800"
    assert lines.lines_of(path) is None


def test_gb18030_that_shows_late_is_still_found(write: Any) -> None:
    path = write("a.txt", ("plain words of ascii\n" * 40 + "你好，今天天气很好。我们去公园\n" * 5).encode("gb18030"))
    notes: list[str] = []
    assert lines.mark_before(path, 20).byte  # and not the start
    assert list(read_rows(path, notes, 20))[20] == {"text": "你好，今天天气很好。我们去公园"}
    assert notes == ["a.txt: is not UTF-8; read as GB18030"]
    with pytest.raises(Undivided):
        corpus("a.txt", stage="pt").divide(2)


def test_a_file_is_counted_once_until_it_changes(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    count = lines._count
    monkeypatch.setattr(lines, "_count", lambda path, *more: (counted.append(path.name), count(path, *more))[1])
    path = write("a.jsonl", [{"text": "some words"}] * 30)
    for _ in range(2):
        assert count_rows(path) == 30
        lines._known.cache_clear()  # as another process
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
    lines._known.cache_clear()
    assert count_rows(path) == 30
    (kept,) = cache.counts_folder().iterdir()
    kept.write_text("{torn")
    lines._known.cache_clear()
    assert list(read_rows(path, [], 29)) == [{"text": "some words"}]
    assert count_rows(path) == 30


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_one_file_makes_lanes(write: Any, kind: str) -> None:
    rows = [json.dumps({"text": f"{number:03}"}) if kind == "jsonl" else f"{number:03}" for number in range(100)]
    write(f"a.{kind}", "\n\n".join(rows))
    one = corpus(f"a.{kind}", stage="pt")
    found = sorted((list(one.read(lane, 3)) for lane in range(3)), key=lambda lane: lane[0].row)
    assert [[sample.row for sample in lane] for lane in found] == [
        list(range(*edges)) for edges in ((0, 33), (33, 67), (67, 100))
    ]
    assert all(sample.record.text == f"{sample.row:03}" for lane in found for sample in lane)


def test_a_list_that_is_called_jsonl_is_not_divided(write: Any) -> None:
    write("a.jsonl", json.dumps([{"text": f"{number}"} for number in range(100)], indent=1))
    assert read_json.rows_of_json_lines(Path("data/a.jsonl")) is None
    with pytest.raises(Undivided):
        corpus("a.jsonl", stage="pt").divide(2)
