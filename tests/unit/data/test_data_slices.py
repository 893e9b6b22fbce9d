"""Slices of splits, as Hugging Face writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.data.load import load_samples, source_fingerprint
from burnish.data.readers import count_rows
from burnish.data.slices import parse_split
from burnish.errors import DataError

WRITTEN = [
    *(
        "train[:10%]",
        "train[10%:]",
        "train[-10%:]",
        "train[33%:66%]",
        "train[:]",
        "train",
        "train[:50%]",
        "train[:100%]",
    ),
    *("train[3:7]", "train[-3:]", "train[:-3]", "train[2:99]", "train[-99:4]", "train[1_0:1_2]", "train[:2]+test"),
    *("train[:1%]", "train[1%:2%]", "test[5:]+train[:5]", "train[-100%:5%]", "train[:10%] + train[90%:]"),
]


@pytest.mark.parametrize("rows", [1, 7, 14, 50, 99, 250])
def test_slices_are_those_of_datasets(rows: int) -> None:
    reading = pytest.importorskip("datasets.arrow_reader")
    sizes = {"train": rows, "test": rows + 3}
    for text in WRITTEN:
        expected = [
            (part.splitname, part.from_, part.to) for part in reading.ReadInstruction.from_spec(text).to_absolute(sizes)
        ]
        found = [(part.split, *part.bounds(sizes[part.split])) for part in parse_split(text, "split")]
        assert found == expected, text


def test_a_tenth_is_rounded_to_the_nearest_row() -> None:
    """By hand: 10% of 14 rows is 1.4, of 16 rows 1.6; half a row goes to the even one, 5% of 50 is 2."""
    [tenth], [twentieth] = parse_split("train[:10%]", ""), parse_split("train[:5%]", "")
    assert [tenth.bounds(14), tenth.bounds(16), twentieth.bounds(50)] == [(0, 1), (0, 2), (0, 2)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("train[:10%", "'train[:10%' is not a split or a slice of one"),
        ("train[5]", "'train[5]' is not a split or a slice of one"),
        ("train[1.5:]", "'train[1.5:]' is not a split or a slice of one"),
        ("train+", "'train+' is not a split or a slice of one"),
        ("train[10%:200]", "'train[10%:200]' mixes rows and percent"),
        ("train[:150%]", "'train[:150%]' asks for more than 100%"),
    ],
)
def test_what_is_no_slice_is_an_error_of_the_entry(write: Any, text: str, what: str) -> None:
    entry(write, split=text)
    with pytest.raises(DataError) as caught:
        load_samples(["set"], Path("data"))
    assert caught.value.what == what
    assert caught.value.at == "data/dataset_info.json: set.split"


def entry(write: Any, name: str = "rows.jsonl", **more: Any) -> None:
    write("dataset_info.json", {"set": {"file_name": name, **more}})


def numbered(*numbers: int) -> list[dict[str, str]]:
    return [{"instruction": "q", "output": str(number)} for number in numbers]


def answers(**changes: Any) -> list[str]:
    return [sample.record.turns[-1].content for sample in load_samples(["set"], Path("data"), **changes).samples]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.arrow", "folder"])
def test_a_slice_of_local_rows(write: Any, name: str) -> None:
    rows = numbered(*range(20))
    write("rows.json", rows)
    write("rows.jsonl", rows)
    write("rows.csv", "instruction,output\n" + "".join(f"q,{number}\n" for number in range(20)))
    write("folder/a.jsonl", rows[:3])
    write("folder/b.jsonl", rows[3:16])
    write("folder/c.jsonl", rows[16:])
    tabular(rows, name)
    for text, expected in {"train[:10%]": range(2), "train[2:18]": range(2, 18), "train[-4:]": range(16, 20)}.items():
        entry(write, name, split=text)
        assert answers() == [str(number) for number in expected]


def tabular(rows: list[dict[str, str]], name: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        pq.write_table(table, f"data/{name}", row_group_size=6)
    if name.endswith(".arrow"):
        with pa.ipc.new_stream(f"data/{name}", table.schema) as writer:
            writer.write_table(table, max_chunksize=6)


def test_rows_keep_their_numbers_and_the_first_of_them_may_be_asked_for(write: Any) -> None:
    write("rows.jsonl", numbered(*range(20)))
    entry(write, split="train[5:]+train[:5]")
    assert answers() == [str(number) for number in (*range(5, 20), *range(5))]
    assert [sample.row for sample in load_samples(["set"], Path("data"), max_samples=3).samples] == [5, 6, 7]


def test_splits_of_a_local_folder_are_told_by_the_names(write: Any) -> None:
    write("folder/train.jsonl", numbered(1, 2))
    write("folder/test.jsonl", numbered(3))
    entry(write, "folder", split="train+test")
    assert answers() == ["1", "2", "3"]
    entry(write, "folder", split="test")
    assert answers() == ["3"]
    entry(write, "folder", split="tests[:1]")
    with pytest.raises(DataError, match="no split 'tests' among the files") as caught:
        answers()
    assert caught.value.fix == "did you mean 'test'?"


def test_a_slice_without_rows_and_a_split_that_is_not_there(write: Any) -> None:
    write("rows.jsonl", numbered(1, 2))
    entry(write, split="train[5:]")
    with pytest.raises(DataError, match="from row 2 to row 2 of 2"):
        answers()
    entry(write, split="validation[:1]")
    with pytest.raises(DataError, match="a local file has no split 'validation'"):
        answers()


def test_a_slice_is_part_of_what_a_cache_goes_by(write: Any) -> None:
    write("rows.jsonl", numbered(*range(9)))

    def key(text: str) -> str:
        entry(write, split=text)
        return source_fingerprint(["set"], Path("data"), stage="sft", max_samples=None, seed=1)

    assert key("train[:3]") == key("train[:3]") != key("train[:4]")


def test_rows_are_counted_as_they_are_read(write: Any) -> None:
    assert count_rows(write("a.jsonl", '{"a": 1}\n\n  \n{"a": 2}')) == 2
    assert count_rows(write("b.jsonl", json.dumps(numbered(1, 2, 3)))) == 3
    assert count_rows(write("c.txt", "one\n\ntwo\n")) == 2
