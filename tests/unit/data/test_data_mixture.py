"""Datasets that take turns, and rows that are drawn: any place is found again, and lanes hold their share of each."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from burnish.data import draws, iterate
from burnish.data.corpus import Corpus, Undivided
from burnish.data.iterate import iter_samples
from burnish.data.mix import Chances, interleave
from burnish.data.mixture import Mixture
from burnish.errors import DataError

STRATEGIES = ["concat", "interleave_under", "interleave_over", "interleave_once"]
BAD = {"instruction": "q", "output": ""}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))


def rows(letter: str, count: int) -> list[dict[str, str]]:
    return [{"instruction": "q", "output": f"{letter}{number:02}"} for number in range(count)]


def corpus(*names: str, **more: Any) -> Corpus:
    reading = {"stage": "sft", "max_samples": None, "seed": 1, "cache_dir": None, "hub_token": None}
    return Corpus(names, Path("data"), **{"on_bad_row": "drop", "ms_hub_token": None, **reading, **more})


def mixture(*names: str, strategy: str = "interleave_over", probs: Any = None, seed: int = 1, **more: Any) -> Mixture:
    return Mixture(corpus(*names, seed=seed, **more), strategy, probs, seed)


def answers(samples: Any) -> list[str]:
    return [sample.record.turns[-1].content for sample in samples]


@pytest.fixture
def three(write: Any) -> tuple[str, ...]:
    """Datasets of 8, 12 and 20 rows in two files each; of the last one more are drawn than it has."""
    for letter, count in (("a", 8), ("b", 12), ("c", 20)):
        made = rows(letter, count)
        made = [*made[:3], BAD, *made[3:]] if letter == "c" else made
        write(f"{letter}/1.jsonl", made[: len(made) // 2])
        write(f"{letter}/2.jsonl", made[len(made) // 2 :])
    write(
        "dataset_info.json", {"c": {"file_name": "c", "num_samples": 24}, "few": {"file_name": "c", "num_samples": 10}}
    )
    return "a/", "b/", "c"


@pytest.mark.parametrize("probs", [None, (0.5, 0.2, 0.3)])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("lanes", [1, 2])
def test_any_place_is_found_again(three: tuple[str, ...], strategy: str, probs: Any, lanes: int) -> None:
    one = mixture(*three, strategy=strategy, probs=probs)
    for lane in range(lanes):
        whole = answers(one.read(lane, lanes, None, 3))
        reader = one.read(lane, lanes, None, 3)
        for taken in range(1, len(whole) + 1):
            next(reader)
            cursor = json.loads(json.dumps(reader.cursor))
            assert answers(one.read(lane, lanes, cursor, 3)) == whole[taken:]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_lane_takes_turns_as_datasets_in_memory_do(three: tuple[str, ...], strategy: str) -> None:
    each = [answers(iter_samples([name], Path("data"), seed=1)) for name in three]
    assert [len(one) for one in each] == [8, 12, 24]
    expected = [answer for one in each for answer in one]
    if strategy != "concat":
        expected = list(interleave([lambda one=one: iter(one) for one in each], strategy, None, 1))
    assert answers(mixture(*three, strategy=strategy).read()) == expected


@pytest.mark.parametrize("strategy", ["concat", "interleave_once"])
def test_lanes_hold_each_row_once_and_their_share_of_each_dataset(three: tuple[str, ...], strategy: str) -> None:
    one = mixture(*three, strategy=strategy, probs=(0.5, 0.2, 0.3))
    lanes = [answers(one.read(lane, 4)) for lane in range(4)]
    assert sorted(answer for lane in lanes for answer in lane) == sorted(answers(one.read()))
    assert [Counter(answer[0] for answer in lane) for lane in lanes] == [{"a": 2, "b": 3, "c": 6}] * 4


def test_chance_follows_the_seed_the_pass_and_the_lane(write: Any) -> None:
    for letter in "ab":
        write(f"{letter}.jsonl", rows(letter, 60))
    orders = {
        key: "".join(
            answer[0]
            for answer in answers(
                mixture("a.jsonl", "b.jsonl", probs=(0.5, 0.5), seed=key[0]).read(key[1], 2, None, key[2])
            )
        )
        for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))
    }
    assert len(set(orders.values())) == 4
    assert orders[1, 0, 0].startswith(
        "".join(answer[0] for answer in answers(mixture("a.jsonl", "b.jsonl", probs=(0.5, 0.5)).read(0, 2))[:20])
    )


def test_any_chance_is_come_to_at_once() -> None:
    one = Chances("name")
    whole = [one(number) for number in range(9000)]
    for number in (0, 1, 4095, 4096, 4097, 8999):
        assert Chances("name")(number) == whole[number]
    assert [one(5), one(6), one(5)] == [whole[5], whole[6], whole[5]]
    assert 0.48 < sum(whole) / len(whole) < 0.52


def test_a_resume_opens_only_the_files_at_the_place(write: Any, opened: list[tuple[str, int]]) -> None:
    for letter in "ab":
        for file in range(4):
            write(f"{letter}/{file}.jsonl", rows(letter, 40)[10 * file : 10 * file + 10])
    one = mixture("a/", "b/")
    reader = one.read()
    for _ in range(70):
        next(reader)
    opened.clear()
    assert len(answers(one.read(cursor=reader.cursor))) == 11
    assert opened == [("3.jsonl", 5), ("3.jsonl", 5), ("0.jsonl", 0)]  # the one that ends first begins again


def test_drawn_rows_are_those_of_a_run_without_streaming(three: tuple[str, ...], opened: list[tuple[str, int]]) -> None:
    for name, seed, most in (("c", 1, None), ("few", 1, None), ("few", 2, None), ("c", 3, 7)):
        expected = answers(iter_samples([name], Path("data"), seed=seed, max_samples=most))
        found = mixture(name, seed=seed, max_samples=most, strategy="concat")
        opened.clear()
        assert answers(found.read()) == expected
        assert all(start for _, start in opened) or len(opened) == 2  # what lies before the first drawn row is not read


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz"])
def test_rows_far_apart_are_gone_to(
    write: Any, kind: str, opened: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain file is begun anew at each of them; a packed one can only be read from its start, so it is once."""
    path = write("a.jsonl" if "jsonl" in kind else "a.json", rows("a", 99))
    if kind == "jsonl.gz":
        write("a.jsonl.gz", gzip.compress(path.read_bytes()))
    write("dataset_info.json", {"a": {"file_name": f"a.{kind}", "num_samples": 12}})
    expected = answers(iter_samples(["a"], Path("data"), seed=1))
    one = mixture("a")
    monkeypatch.setattr(draws, "FAR_ROWS", 5)
    opened.clear()
    assert answers(one.read()) == expected
    apart = [int(expected[0][1:])]
    apart += [int(late[1:]) for early, late in pairwise(expected) if int(late[1:]) - int(early[1:]) > 5]
    assert opened == [(f"a.{kind}", row) for row in (apart[:1] if kind == "jsonl.gz" else apart)]
    assert len(apart) > 2


def test_usable_rows_are_looked_for_once(three: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    counted = []
    count = draws.Draws._count
    monkeypatch.setattr(draws.Draws, "_count", lambda one: (counted.append(1), count(one))[1])
    first = answers(mixture("c").read())
    assert answers(mixture("c", "few").parts[0].read()) == first  # the same rows of the same files
    assert len(counted) == 1
    mixture("c", seed=9)
    assert len(counted) == 1
    write("c/2.jsonl", rows("d", 30))
    assert {answer[0] for answer in answers(mixture("c").read())} == {"c", "d"}
    assert len(counted) == 2
    with pytest.raises(DataError, match="row 3"):
        mixture("c", on_bad_row="error")


def test_too_many_bad_rows_are_told_before_the_first_draw(write: Any) -> None:
    write("a.jsonl", [*rows("a", 10), BAD, BAD])
    write("dataset_info.json", {"a": {"file_name": "a.jsonl", "num_samples": 3}})
    with pytest.raises(DataError, match=r"2 of 12 rows .* cannot be used"):
        mixture("a")


def test_what_is_held_out_is_in_no_lane(three: tuple[str, ...]) -> None:
    for strategy in STRATEGIES[1:]:
        one = mixture(*three, strategy=strategy)
        reader = one.read()
        held = [next(reader).record.turns[-1].content for _ in range(12)]
        one.hold_out(reader, 12)
        trained = {answer for lane in range(2) for answer in answers(one.read(lane, 2))}
        assert strategy == "interleave_under" or trained == set(answers(one.read()))
        assert not trained & set(held)
        if strategy == "interleave_once":
            assert trained | set(held) == set(answers(mixture(*three, strategy=strategy).read()))


@pytest.mark.parametrize("count", range(1, 8))
def test_a_row_that_was_drawn_often_is_held_out_or_trained_on(write: Any, count: int) -> None:
    write("a.jsonl", rows("a", 6))
    write("dataset_info.json", {"a": {"file_name": "a.jsonl", "num_samples": 18}})
    one = mixture("a", strategy="concat")
    reader = one.read()
    held = {next(reader).record.turns[-1].content for _ in range(count)}
    one.hold_out(reader, count)
    assert held | set(answers(one.read())) == {f"a{number:02}" for number in range(6)}
    assert not held & set(answers(one.read()))


@pytest.mark.parametrize(("strategy", "count"), [("interleave_over", 30), ("interleave_once", 24), ("concat", 8)])
def test_a_dataset_that_is_held_out_whole_is_an_error(three: tuple[str, ...], strategy: str, count: int) -> None:
    one = mixture(*three, strategy=strategy)
    reader = one.read()
    for _ in range(count):
        next(reader)
    with pytest.raises(DataError, match="holds out all rows of 'a/'") as caught:
        one.hold_out(reader, count)
    assert caught.value.at == "val_size"


def test_a_dataset_without_lanes_is_named(three: tuple[str, ...], write: Any) -> None:
    write("d.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in rows("d", 10)).encode()))
    with pytest.raises(Undivided, match=r"d\.jsonl\.gz: there are fewer files .* d\.jsonl\.gz has too few rows"):
        mixture(*three, "d.jsonl.gz").divide(2)
    with pytest.raises(Undivided, match="few: 10 drawn rows make no even lanes"):
        mixture("few", "a/").divide(3)


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_once"])
def test_a_packed_file_keeps_no_other_dataset_whole(
    write: Any, strategy: str, opened: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lane reads the packed file and takes its rows of it, but only its own part of the others."""
    monkeypatch.setattr(iterate, "HEAD", 5)
    write("d.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in rows("d", 40)).encode()))
    write("a.csv", "instruction,output\n" + "".join(f"q,{row['output']}\n" for row in rows("a", 40)))
    write("b.json", rows("b", 40))
    one = mixture("d.jsonl.gz", "a.csv", "b.json", strategy=strategy)
    lanes = [answers(one.read(lane, 4)) for lane in range(4)]
    assert sorted(answer for lane in lanes for answer in lane) == sorted(answers(one.read()))
    assert [Counter(answer[0] for answer in lane) for lane in lanes] == [{"a": 10, "b": 10, "d": 10}] * 4
    opened.clear()
    reader = one.read(2, 4)
    for _ in range(13):
        next(reader)
    cursor = json.loads(json.dumps(reader.cursor))
    rest = list(reader)
    assert [(name, row % 10) for name, row in opened] == [("d.jsonl.gz", 0), ("a.csv", 0), ("b.json", 0)]
    assert answers(one.read(2, 4, cursor)) == answers(rest)


@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("most", [5, 8, 11, 50])
def test_max_samples_is_divided_where_files_tell_their_rows(three: tuple[str, ...], most: int, held: int) -> None:
    one = corpus("a/", "b/", max_samples=most)
    reader = one.read()
    for _ in range(held):
        next(reader)
    if held:
        one.hold_out(reader, held)
    whole = answers(one.read())
    assert len(whole) == min(most, 8) + min(most, 12) - held
    try:
        lanes = [answers(one.read(lane, 2)) for lane in range(2)]
    except Undivided:
        assert (most, held) in {(5, 0), (5, 3), (8, 3), (11, 3), (50, 3)}  # an odd number of few rows
        return
    assert sorted(lanes[0] + lanes[1]) == sorted(whole)


def test_a_row_that_vanished_is_told(three: tuple[str, ...], write: Any) -> None:
    one = mixture("c")
    write("c/2.jsonl", rows("c", 1))
    with pytest.raises(DataError, match=r"row \d+ was drawn and is not there"):
        answers(one.read())
