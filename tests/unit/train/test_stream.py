"""Streamed data: every sample once a pass, whatever the block size, and any place is found again."""

from __future__ import annotations

import pytest

from burnish.batch.chunks import LabelOptions, conversation_chunk, document_chunk
from burnish.batch.truncation import Limits
from burnish.data.records import Conversation, Document, Sample, Turn
from burnish.errors import DataError
from burnish.template import load_template
from burnish.train.stream import StreamOptions, StreamPlan
from tests.conftest import build_tokenizer

SAMPLES = [
    Sample(Conversation((Turn("user", "q"), Turn("assistant", f"answer {row} {'x' * (row % 7)}"))), "set", row)
    for row in range(23)
]


def plan(samples=SAMPLES, make=conversation_chunk, labels=None, rows=2, **options):
    options = {"block_samples": 6, "cutoff_len": 100, **options}
    template = load_template(build_tokenizer())
    return StreamPlan(
        lambda: iter(samples), template, labels or LabelOptions(), make, StreamOptions(**options), rows, 1
    )


def seen(one, steps, start=0):
    return [
        [tuple(one.example(number).input_ids) for number in micro]
        for step in range(start, steps)
        for micro in one.step(step)
    ]


def flat(found):
    return [ids for micro in found for ids in micro]


@pytest.mark.parametrize("block", [1, 6, 23, 100])
def test_each_sample_once_a_pass(block):
    expected = sorted(
        flat(seen(plan(block_samples=100, shuffle=False), 11)) + flat(seen(plan(shuffle=False), 12))[22:23]
    )
    found = flat(seen(plan(block_samples=block), 23))  # 46 rows: two passes
    assert sorted(found[:23]) == sorted(found[23:]) == expected


def test_the_order_follows_the_seed_and_changes_with_the_pass():
    one, same, other = (flat(seen(plan(seed=seed), 23)) for seed in (1, 1, 2))
    assert one == same != other
    assert one[:23] != one[23:]


@pytest.mark.parametrize("pack", ["no", "whole"])
@pytest.mark.parametrize("stop", [1, 3, 4, 11, 14])
def test_a_place_is_found_again(stop, pack):
    whole = plan(pack=pack)
    expected = seen(whole, 20)
    first = plan(pack=pack)
    seen(first, stop)
    place = first.position(stop)
    again = plan(pack=pack)
    again.seek(place)
    assert again.epoch_at(stop) == first.epoch_at(stop)
    assert seen(again, 20, stop) == expected[stop:]
    assert [again.epoch_at(step) for step in (20, 19)] == [whole.epoch_at(step) for step in (20, 19)]


@pytest.mark.parametrize("stop", range(1, 25))
def test_a_place_at_the_edge_of_a_block_or_of_a_pass(stop):
    """A run that was killed there goes on, and says the same about how far it is."""
    first, again = plan(rows=3), plan(rows=3)
    seen(first, stop)
    again.seek(first.position(stop))
    assert again.epoch_at(stop) == first.epoch_at(stop)
    assert again.position(stop) == first.position(stop)
    assert seen(again, stop + 2, stop) == seen(first, stop + 2, stop)


def test_a_step_of_more_rows_than_two_blocks_hold():
    small, large = plan(block_samples=2, rows=9, shuffle=False), plan(block_samples=100, rows=9, shuffle=False)
    assert seen(small, 4) == seen(large, 4)


def test_windows_hold_all_tokens_of_a_block():
    documents = [Sample(Document("y" * (5 + row)), "set", row) for row in range(6)]
    one = plan(
        documents, document_chunk, LabelOptions(Limits(16)), pack="windows", cutoff_len=16, shuffle=False, rows=1
    )
    tokens = sum(len(sample.record.text) + 1 for sample in documents)
    lengths = [len(ids) for ids in flat(seen(one, -(-tokens // 16)))]
    assert sum(lengths) == tokens
    assert lengths[:-1] == [16] * (len(lengths) - 1)


def test_ranks_share_a_step():
    template = load_template(build_tokenizer())
    shared = StreamPlan(
        lambda: iter(SAMPLES), template, LabelOptions(), conversation_chunk, StreamOptions(6, 100), 2, 2, ranks=2
    )
    alone = StreamPlan(
        lambda: iter(SAMPLES), template, LabelOptions(), conversation_chunk, StreamOptions(6, 100), 2, 4, ranks=1
    )
    both = [shared.step(0, rank) for rank in (0, 1)]
    assert [both[0][0], both[1][0], both[0][1], both[1][1]] == alone.step(0)


def test_a_stream_without_samples_is_an_error():
    with pytest.raises(DataError, match="gives no sample"):
        plan([]).step(0)


def test_blocks_without_a_usable_row_are_passed_over():
    labels = LabelOptions(Limits(60, "drop"))
    long = Sample(Conversation((Turn("user", "q" * 99), Turn("assistant", "a"))), "set", 0)
    one = plan([long] * 8 + SAMPLES[:1], labels=labels, rows=1)
    assert len(flat(seen(one, 2))) == 2
    assert one.dropped["longer than cutoff_len"] >= 8
