"""Holding out an evaluation part."""

from __future__ import annotations

from collections import Counter

import pytest

from burnish.data.load import split_samples
from burnish.data.records import Document, Sample
from burnish.data.split import choose
from burnish.errors import DataError


def samples(**sizes: int) -> list[Sample]:
    return [Sample(Document(f"{name}{row}"), name, row) for name, size in sizes.items() for row in range(size)]


def counts(held: list[Sample]) -> dict[str, int]:
    return dict(Counter(sample.dataset for sample in held))


def test_nothing_is_held_out_by_default() -> None:
    every = samples(a=3)
    assert split_samples(every, 0.0, 1) == (every, [])
    assert split_samples([], 0.1, 1) == ([], [])


@pytest.mark.parametrize(
    ("val_size", "expected"),
    [
        (0.1, {"a": 8, "b": 2}),
        (10, {"a": 8, "b": 2}),
        (1, {"a": 1}),
        (0.001, {"a": 1}),
        (99, {"a": 79, "b": 20}),
    ],
)
def test_shares_and_counts_in_proportion(val_size: float, expected: dict[str, int]) -> None:
    every = samples(a=80, b=20)
    train, held = split_samples(every, val_size, 1)
    assert counts(held) == expected
    assert sorted(train + held, key=every.index) == every
    assert train == [sample for sample in every if sample in train]
    assert held == [sample for sample in every if sample in held]


def test_the_seed_decides() -> None:
    every = samples(a=80, b=20)
    assert split_samples(every, 10, 1) == split_samples(every, 10, 1)
    assert split_samples(every, 10, 1) != split_samples(every, 10, 2)


def test_another_dataset_does_not_change_the_rows_held_out() -> None:
    alone = split_samples(samples(a=80), 0.1, 1)[1]
    beside = split_samples(samples(b=80, a=80), 0.1, 1)[1]
    assert alone == [sample for sample in beside if sample.dataset == "a"]


def test_copies_of_a_row_stay_on_one_side() -> None:
    train, held = split_samples(samples(a=10) * 3, 0.2, 1)
    assert (len(train), len(held)) == (24, 6)
    assert not {sample.row for sample in train} & {sample.row for sample in held}


@pytest.mark.parametrize("val_size", [3, 5, 0.99])
def test_something_must_be_left_to_train_on(val_size: float) -> None:
    with pytest.raises(DataError) as caught:
        split_samples(samples(a=2, b=1), val_size, 1)
    wanted = 3 if val_size == 0.99 else val_size
    assert (caught.value.what, caught.value.at, caught.value.fix) == (
        f"val_size {val_size} holds out {wanted} of 3 rows: none is left to train on",
        "val_size",
        "give a count below 3, or a smaller share",
    )


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(DataError):
        split_samples(samples(a=2), -0.1, 1)


def test_choose_is_reproducible_and_covers_all_before_it_repeats() -> None:
    assert choose(10, 4, 1, "a") == choose(10, 4, 1, "a")
    assert len(set(choose(10, 4, 1, "a"))) == 4
    assert sorted(choose(10, 25, 1, "a")[:10]) == list(range(10))
    assert len(choose(10, 25, 1, "a")) == 25
