"""A corpus is read from any place on, and shared out in lanes that hold each row once."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from burnish.data import iterate
from burnish.data.corpus import Corpus, Undivided
from burnish.errors import DataError


def rows(first: int, last: int) -> list[dict[str, str]]:
    return [{"instruction": "q", "output": f"{number:03}"} for number in range(first, last)]


def corpus(*names: str, on_bad_row: str = "drop", **more: Any) -> Corpus:
    plain = {"stage": "sft", "max_samples": None, "seed": 1, "cache_dir": None, "hub_token": None, "ms_hub_token": None}
    return Corpus(names, Path("data"), on_bad_row=on_bad_row, **{**plain, **more})


def answers(samples: Any) -> list[str]:
    return [sample.record.turns[-1].content for sample in samples]


def parquet(path: str, made: list[dict[str, str]], group: int) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(made), path, row_group_size=group)


def arrow(path: str, made: list[dict[str, str]], group: int) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(made)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)


def all_types(write: Any) -> None:
    made = rows(0, 10)
    write("a/1.jsonl", made[:4])
    write("a/2.jsonl", made[4:])
    write("b.json", made)
    write("c.csv", "instruction,output\n" + "".join(f"q,{row['output']}\n" for row in made))
    write("d.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in made).encode()))
    parquet("data/e.parquet", made, 3)
    arrow("data/f.arrow", made, 3)
    write("dataset_info.json", {"g": {"file_name": "a", "split": "train[2:9]+train[:1]"}})


@pytest.mark.parametrize("name", ["a/", "b.json", "c.csv", "d.jsonl.gz", "e.parquet", "f.arrow", "g"])
def test_it_goes_on_after_any_sample(write: Any, name: str) -> None:
    all_types(write)
    whole = answers(corpus(name).read())
    assert len(whole) == (8 if name == "g" else 10)
    for taken in range(1, len(whole) + 1):
        reader = corpus(name).read()
        assert [next(reader).record.turns[-1].content for _ in range(taken)] == whole[:taken]
        cursor = json.loads(json.dumps(reader.cursor))
        assert answers(corpus(name).read(cursor=cursor)) == whole[taken:]


def test_files_before_the_place_are_not_opened(write: Any, opened: list[tuple[str, int]]) -> None:
    for number in range(5):
        write(f"set/{number}.jsonl", rows(10 * number, 10 * number + 10))
    one = corpus("set/")
    reader = one.read()
    for _ in range(34):
        next(reader)
    opened.clear()
    assert answers(one.read(cursor=reader.cursor)) == [f"{number:03}" for number in range(34, 50)]
    assert opened == [("3.jsonl", 4), ("4.jsonl", 0)]


def test_several_datasets_and_max_samples(write: Any) -> None:
    write("a.jsonl", rows(0, 9))
    write("b.jsonl", rows(9, 20))
    whole = answers(corpus("a.jsonl", "b.jsonl", max_samples=6).read())
    assert whole == [f"{number:03}" for number in (*range(6), *range(9, 15))]
    for taken in range(1, 12):
        reader = corpus("a.jsonl", "b.jsonl", max_samples=6).read()
        for _ in range(taken):
            next(reader)
        assert answers(corpus("a.jsonl", "b.jsonl", max_samples=6).read(cursor=reader.cursor)) == whole[taken:]


def test_bad_rows_before_the_place_count_as_well(write: Any) -> None:
    """One bad row of 60 is fine, and two of 60; but two of the last 20, without the others, would be an error."""
    bad = [{"instruction": "q", "output": ""}]
    write("a.jsonl", [*rows(0, 40), *bad, *rows(40, 50), *bad, *rows(50, 60)])
    reader = corpus("a.jsonl").read()
    for _ in range(40):
        next(reader)
    assert len(answers(corpus("a.jsonl").read(cursor=reader.cursor))) == 20
    fresh = {**reader.cursor, "rows": 0, "kept": 0}
    with pytest.raises(DataError, match="cannot be used"):
        answers(corpus("a.jsonl").read(cursor=fresh))


def lanes_of(one: Corpus, lanes: int) -> list[list[str]]:
    return [answers(one.read(lane, lanes)) for lane in range(lanes)]


@pytest.mark.parametrize("lanes", [2, 3, 4])
def test_lanes_hold_each_row_once(
    write: Any, lanes: int, opened: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iterate, "HEAD", 5)
    for number in range(12):
        write(f"set/{number:02}.jsonl", rows(10 * number, 10 * number + 10))
    found = lanes_of(corpus("set/"), lanes)
    assert Counter(answer for lane in found for answer in lane) == Counter(f"{number:03}" for number in range(120))
    assert [len(lane) for lane in found] == [120 // lanes] * lanes
    assert all(lane == sorted(lane) for lane in found)
    opened.clear()
    answers(corpus("set/").read(1, lanes))
    assert len(opened) == 1 + 12 // lanes  # the first file tells the format


def test_files_of_unequal_size_are_dealt_evenly(write: Any) -> None:
    sizes = [30, 10, 10, 10, 25, 5]
    for number, size in enumerate(sizes):
        write(f"set/{number}.jsonl", rows(100 * number, 100 * number + size))
    assert [len(lane) for lane in lanes_of(corpus("set/"), 2)] == [45, 45]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_row_groups_of_one_file_make_lanes(write: Any, kind: str) -> None:
    write("nothing.txt", "x")
    {"parquet": parquet, "arrow": arrow}[kind](f"data/a.{kind}", rows(0, 60), 5)
    found = lanes_of(corpus(f"a.{kind}"), 3)
    assert found == [[f"{number:03}" for number in range(first, first + 20)] for first in (0, 20, 40)]
    with pytest.raises(Undivided, match=r"fewer files \(1\) than lanes \(13\)"):
        corpus(f"a.{kind}").divide(13)


def packed(path: str, made: list[dict[str, str]]) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in made).encode()))


def test_what_cannot_be_divided_says_why(write: Any) -> None:
    write("a.json", rows(0, 1))
    packed("data/a.jsonl.gz", rows(0, 17))
    packed("data/set/1.jsonl.gz", rows(0, 50))
    packed("data/set/2.jsonl.gz", rows(50, 60))
    with pytest.raises(Undivided, match=r"fewer files \(1\) than lanes \(2\), and a\.json has too few rows"):
        corpus("a.json").divide(2)
    with pytest.raises(Undivided, match=r"fewer files \(1\) than lanes \(2\), and a\.jsonl\.gz has too few rows"):
        corpus("a.jsonl.gz").divide(2)
    with pytest.raises(Undivided, match=r"very unequal size, and 2\.jsonl\.gz has too few rows"):
        corpus("set/").divide(2)
    with pytest.raises(Undivided, match=r"max_samples takes the first rows, and 1\.jsonl\.gz does not tell"):
        corpus("set/", max_samples=5).divide(2)


def text_of(path: str, made: list[dict[str, str]]) -> None:
    Path(path).write_bytes(
        "".join(f"{row['output']} 你好，今天天气很好。我们去公园\n" for row in made).encode("gb18030")
    )


@pytest.mark.parametrize("lanes", [2, 3])
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.txt", "a.parquet", "set/"])
def test_rows_are_taken_in_turns_where_a_file_is_not_cut(write: Any, lanes: int, name: str) -> None:
    """Compressed, not UTF-8, too few row groups, or cut very unequally; and two files, of which one is packed."""
    write("nothing.txt", "x")
    made = rows(0, 60)
    table = "instruction,output\n" + "".join(f"q,{row['output']}\n" for row in made)
    if name == "a.csv.gz":
        write(name, gzip.compress(table.encode()))
    elif name == "set/":
        packed("data/set/1.jsonl.gz", made[:28])
        write("set/2.jsonl", made[28:])
    else:
        make = {"a.jsonl.gz": packed, "a.txt": text_of, "a.parquet": lambda *of: parquet(*of, 50)}[name]
        make(f"data/{name}", made)
    one = corpus(name, stage="pt" if name == "a.txt" else "sft")
    found = [list(one.read(lane, lanes)) for lane in range(lanes)]
    places = [(sample.file, sample.row) for lane in found for sample in lane]
    assert sorted(places) == sorted((sample.file, sample.row) for sample in one.read())
    assert len(places) == 60
    assert max(map(len, found)) - min(map(len, found)) < lanes
    if lanes == 3:
        return
    for taken in range(1, 30):
        reader = one.read(1, 2)
        assert list(islice(reader, taken)) == found[1][:taken]
        assert list(one.read(1, 2, json.loads(json.dumps(reader.cursor)))) == found[1][taken:]


@pytest.mark.parametrize("held", [1, 9, 10, 14])
def test_what_is_held_out_is_in_no_lane(write: Any, held: int) -> None:
    for number in range(6):
        write(f"set/{number}.jsonl", rows(10 * number, 10 * number + 10))
    one = corpus("set/")
    reader = one.read()
    for _ in range(held):
        next(reader)
    one.hold_out(reader, held)
    assert answers(one.read()) == [f"{number:03}" for number in range(held, 60)]
    parts = [answers(one.read(lane, 5)) for lane in range(5)] if held == 10 else [answers(one.read())]
    assert sorted(answer for lane in parts for answer in lane) == [f"{number:03}" for number in range(held, 60)]


def test_any_files_give_even_lanes_or_none(write: Any) -> None:
    """A hundred random folders: what is divided is complete, without doubles and even."""
    rng = random.Random(5)
    divided = 0
    for case in range(100):
        sizes = [rng.randint(5, 15) for _ in range(rng.randint(1, 9))]
        first = 0
        for number, size in enumerate(sizes):
            write(f"{case}/{number}.jsonl", rows(first, first + size))
            first += size
        lanes = rng.randint(2, 4)
        one = corpus(f"{case}/")
        try:
            one.divide(lanes)
        except Undivided:
            continue
        divided += 1
        found = lanes_of(one, lanes)
        assert sorted(answer for lane in found for answer in lane) == [f"{number:03}" for number in range(first)]
        assert min(map(len, found)) >= 0.9 * max(map(len, found))
    assert 20 < divided < 100


def test_a_column_that_only_another_lane_has_is_no_error(write: Any) -> None:
    write("set/1.jsonl", rows(0, 12))
    write("set/2.jsonl", [{**row, "system": "S"} for row in rows(10, 18)])
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    write("dataset_info.json", {"set": {"file_name": "set", "columns": columns}})
    assert [len(lane) for lane in lanes_of(corpus("set"), 2)] == [12, 8]


def test_the_identity_follows_files_and_slices(write: Any) -> None:
    write("set/1.jsonl", rows(0, 10))
    write("dataset_info.json", {"a": {"file_name": "set"}, "b": {"file_name": "set", "split": "train[:5]"}})
    first = corpus("a").identity()
    assert first == corpus("a").identity() != corpus("b").identity()
    write("set/2.jsonl", rows(0, 1))
    assert corpus("a").identity() != first
