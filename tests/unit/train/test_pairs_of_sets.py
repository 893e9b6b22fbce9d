"""Splitting and mixing keep the two examples of a pair side by side."""

import numpy as np
import pytest

from burnish.batch.chunks import LabelOptions
from burnish.batch.judged import preference_chunk
from burnish.batch.store import Counts, Selection, SetWriter
from burnish.config import load_settings
from burnish.data.records import Conversation, Preference, Sample, Turn
from burnish.template import ChatTemplate
from burnish.train.data import _mixed, _split


@pytest.fixture
def stored(tokenizer, tmp_path):
    samples = [
        Sample(
            Preference(
                Conversation((Turn("user", f"{name} {row}"),)),
                (Turn("assistant", f"yes {row}"),),
                (Turn("assistant", "no"),),
            ),
            name,
            row,
            f"{name}.json",
        )
        for name, count in (("a", 7), ("b", 4))
        for row in range(count)
    ]
    writer = SetWriter(tmp_path / "set")
    writer.add(preference_chunk(samples, ChatTemplate(tokenizer), LabelOptions()), samples)
    return writer.finish(Counts())


def are_pairs(numbers):
    return numbers.reshape(-1, 2)[:, 0] % 2 == 0, np.diff(numbers.reshape(-1, 2)) == 1


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over", "interleave_once"])
def test_mixing(stored, strategy):
    settings = load_settings({"stage": "dpo", "mix_strategy": strategy, "dataset": "a,b"})
    mixed = _mixed(Selection(stored, np.arange(len(stored))), settings, 2)
    assert all(part.all() for part in are_pairs(mixed.numbers))
    assert mixed.marks.tolist() == [1.0, 0.0] * (len(mixed) // 2)
    assert set(mixed.datasets[:4].tolist()) == {0, 1}  # from one dataset and the other


def test_splitting(stored):
    train, held = _split(stored, 3, 5)
    assert len(held) == 6
    for part in (train, held):
        assert all(each.all() for each in are_pairs(part.numbers))
    assert sorted([*train.numbers, *held.numbers]) == list(range(22))
