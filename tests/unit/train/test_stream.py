"""Streamed data: every sample once a pass, whatever the block size, and any place is found again."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from burnish.batch.chunks import LabelOptions, conversation_chunk, document_chunk
from burnish.batch.truncation import Limits
from burnish.config import load_settings
from burnish.data import iterate
from burnish.data.corpus import Corpus
from burnish.data.records import Conversation, Document, Sample, Turn
from burnish.errors import DataError
from burnish.model.source import find_model
from burnish.template import load_template
from burnish.train.data import build_data, build_template
from burnish.train.lanes import StreamOptions
from burnish.train.stages import STAGES
from burnish.train.stream import StreamPlan
from tests.conftest import build_tokenizer

SAMPLES = [
    Sample(Conversation((Turn("user", "q"), Turn("assistant", f"answer {row} {'x' * (row % 7)}"))), "set", row)
    for row in range(23)
]


class Listed:
    """A source that is a list, of one lane."""

    def __init__(self, samples):
        self.samples, self.passes = samples, []

    def read(self, lane=0, lanes=1, cursor=None, epoch=0):
        self.passes.append(epoch)
        reader = ListedReader(self.samples)
        reader.taken = cursor["taken"] if cursor else 0
        return reader

    def divide(self, lanes):
        return [()] * lanes


class ListedReader:
    def __init__(self, samples):
        self.samples, self.taken = samples, 0

    cursor = property(lambda self: {"taken": self.taken})

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == len(self.samples):
            raise StopIteration
        self.taken += 1
        return self.samples[self.taken - 1]


def plan(samples=SAMPLES, make=conversation_chunk, labels=None, rows=2, **options):
    options = {"block_samples": 6, "cutoff_len": 100, **options}
    template = load_template(build_tokenizer())
    return StreamPlan(Listed(samples), template, labels or LabelOptions(), make, StreamOptions(**options), rows, 1)


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


def test_the_source_is_told_which_pass_it_is():
    one = plan()
    seen(one, 20)
    again = plan()
    again.seek(one.position(20), 20)
    seen(again, 21, 20)
    assert (one.source.passes[:2], again.source.passes[0]) == ([0, 1], 1)


@pytest.mark.parametrize("pack", ["no", "whole"])
@pytest.mark.parametrize("stop", [1, 3, 4, 11, 14])
def test_a_place_is_found_again(stop, pack):
    whole = plan(pack=pack)
    expected = seen(whole, 20)
    first = plan(pack=pack)
    seen(first, stop)
    place = first.position(stop)
    again = plan(pack=pack)
    again.seek(place, stop)
    assert again.epoch_at(stop) == first.epoch_at(stop)
    assert seen(again, 20, stop) == expected[stop:]
    assert [again.epoch_at(step) for step in (20, 19)] == [whole.epoch_at(step) for step in (20, 19)]


@pytest.mark.parametrize("stop", range(1, 25))
def test_a_place_at_the_edge_of_a_block_or_of_a_pass(stop):
    """A run that was killed there goes on, and says the same about how far it is."""
    first, again = plan(rows=3), plan(rows=3)
    seen(first, stop)
    again.seek(first.position(stop), stop)
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
    parts = Listed(SAMPLES), template, LabelOptions(), conversation_chunk
    shared = StreamPlan(*parts, StreamOptions(6, 100), 2, 2, ranks=2)
    alone = StreamPlan(*parts, StreamOptions(6, 100), 2, 4, ranks=1)
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
    assert one.summary(2)["dropped"]["longer than cutoff_len"] >= 8


# -- lanes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Eight files of 7 to 9 rows; two or four lanes of them differ by a row or two."""
    for file, count in enumerate([8, 7, 9, 8, 8, 9, 7, 8]):
        rows = [{"instruction": f"{file}", "output": f"answer {row} {'x' * (row % 5)}"} for row in range(count)]
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def lanes_plan(folder, ranks=1, rank=0, accumulation=1, rows=2, **options):
    reading = {"stage": "sft", "max_samples": None, "seed": 1, "cache_dir": None, "hub_token": None}
    corpus = Corpus([f"{folder}/"], folder, on_bad_row="drop", ms_hub_token=None, **reading)
    given = StreamOptions(**{"block_samples": 6, "cutoff_len": 100, **options})
    template = load_template(build_tokenizer())
    return StreamPlan(corpus, template, LabelOptions(), conversation_chunk, given, rows, accumulation, ranks, rank)


def micro_batches(plans, steps, start=0):
    """What all ranks train on in some steps, in the order of the micro-batches."""
    found = []
    for step in range(start, steps):
        each = [one.step(step, one.rank) for one in plans]
        for turn in range(plans[0].accumulation):
            for one, parts in zip(plans, each, strict=True):
                found.append([tuple(one.example(number).input_ids) for number in parts[turn]])
    return found


def processes(folder, ranks, accumulation, lanes=None, **options):
    plans = [lanes_plan(folder, ranks, rank, accumulation, **options) for rank in range(ranks)]
    for one in plans:
        one.divide(lanes)
    return plans


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("pack", ["no", "whole"])
def test_any_number_of_processes_trains_on_the_same(folder, lanes, pack):
    expected = micro_batches(processes(folder, 1, 4, lanes, pack=pack), 6)
    assert micro_batches(processes(folder, 2, 2, lanes, pack=pack), 6) == expected
    assert micro_batches(processes(folder, 4, 1, lanes, pack=pack), 6) == expected


def test_processes_read_only_their_own_lanes_and_together_each_row_once_a_pass(folder):
    plans = processes(folder, 2, 1)
    assert [one.lanes for one in plans] == [2, 2]
    seen = [flat(micro_batches([one], 16)) for one in plans]  # 32 rows each: one pass over its lane
    assert [sorted(one._opened) for one in plans] == [[0], [1]]
    assert len({*seen[0], *seen[1]}) == len({*seen[0]}) + len({*seen[1]}) == 64
    assert all(Counter(one).most_common(1)[0][1] == 1 for one in seen)


def test_unequal_lanes_go_on_for_as_long_as_is_asked(folder):
    (folder / "7.jsonl").write_text((folder / "7.jsonl").read_text() + '{"instruction": "more", "output": "yes"}\n')
    plans = processes(folder, 2, 1, rows=3)
    found = micro_batches(plans, 50)
    assert all(len(part) == 3 for part in found)
    assert len(found) == 100
    assert plans[0].summary(50)["rows_read"] >= 150


@pytest.mark.parametrize("stop", [1, 3, 8])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 4), (2, 2), (4, 1)])
def test_another_number_of_processes_goes_on_exactly(folder, stop, ranks, accumulation):
    whole = micro_batches(processes(folder, 4, 1), 16)
    first = processes(folder, 1, 4, 4)
    micro_batches(first, stop)
    place = json.loads(json.dumps(first[0].position(stop)))
    again = [lanes_plan(folder, ranks, rank, accumulation) for rank in range(ranks)]
    for one in again:
        one.seek(place, stop)
    assert micro_batches(again, 16, stop) == whole[4 * stop :]


def test_processes_that_do_not_divide_the_lanes_go_on_exactly_too(folder, capsys):
    whole = micro_batches(processes(folder, 2, 3), 12)
    first = processes(folder, 1, 6, 2)
    micro_batches(first, 5)
    again = [lanes_plan(folder, 3, rank, 2) for rank in range(3)]
    for one in again:
        one.seek(first[0].position(5), 5)
    assert micro_batches(again, 12, 5) == whole[30:]
    assert "2 lanes of data do not divide among 3 processes" in capsys.readouterr().out


def test_a_place_is_told_by_all_processes(folder):
    plans = processes(folder, 2, 1)
    micro_batches(plans, 5)
    alone = processes(folder, 1, 2, 2)
    micro_batches(alone, 5)
    told = [{number: lane.position(one._row(number, 5)) for number, lane in one._opened.items()} for one in plans]
    for one in plans:
        one.gather = lambda _: told
    assert plans[0].position(5) == plans[1].position(5) == alone[0].position(5)


def test_a_place_is_told_again_while_a_lane_waits_for_its_turn(folder):
    """Such a lane may stand at the end of a block, and what is asked is in which pass the row before it lay."""
    one = lanes_plan(folder, rows=1, block_samples=1)
    one.divide(5)
    for step in range(12):
        one.step(step)
        place = one.position(step + 1) if step > 2 else {}
    other = lanes_plan(folder, rows=1, block_samples=1)
    other.seek(place, 12)
    assert micro_batches([other], 20, 12) == micro_batches([one], 20, 12)
    one.close()
    other.close()


def test_other_batch_sizes_go_on_where_the_rows_were_left(folder):
    """Not the same steps, but no row twice and none left out."""
    first = processes(folder, 1, 3, 2, shuffle=False)
    before = flat(micro_batches(first, 3))
    again = lanes_plan(folder, accumulation=2, rows=5, shuffle=False)
    again.seek(first[0].position(3), 3)
    after = flat(micro_batches([again], 6, 3))
    for lane in rows_of(folder):
        mine = [ids for ids in before + after if ids in lane]
        assert mine == lane[: len(mine)]
        assert len(mine) > 18


def rows_of(folder):
    """The rows of each of two lanes, in order."""
    return [flat(micro_batches([one], 16)) for one in processes(folder, 2, 1, shuffle=False)]


def test_a_resume_prepares_only_the_block_it_goes_on_in(folder, monkeypatch):
    first = processes(folder, 1, 2, 2)
    micro_batches(first, 14)
    place = first[0].position(14)
    made = []
    convert = iterate.CONVERTERS.get("alpaca/conversation")
    monkeypatch.setattr(iterate.CONVERTERS, "get", lambda _: lambda *given: (made.append(1), convert(*given))[1])
    again = lanes_plan(folder, accumulation=2)
    again.seek(place, 14)
    one = again.step(14)
    for lane in again._opened.values():
        lane._coming.result()
    assert one
    assert len(made) <= 2 * 2 * 6  # of each lane the block and the one that is prepared ahead


def test_lanes_that_cannot_be_had(folder):
    with pytest.raises(DataError, match="cannot be divided into 9 lanes") as caught:
        lanes_plan(folder).divide(9)  # the smallest file has seven rows
    assert caught.value.at == "stream_lanes"
    first = processes(folder, 1, 2, 2)
    micro_batches(first, 1)
    with pytest.raises(DataError, match="divided into 2 lanes, and not into 4"):
        lanes_plan(folder).seek(first[0].position(1), 1, lanes=4)
    (folder / "0.jsonl").write_text("x" * 5000)
    with pytest.raises(DataError, match=r"2 lanes as in the checkpoint: .* unequal size"):
        lanes_plan(folder).seek(first[0].position(1), 1)


def test_what_does_not_suit_is_read_by_all(folder, capsys):
    for number in range(1, 8):
        (folder / f"{number}.jsonl").unlink()
    (folder / "0.jsonl.gz").write_bytes(gzip.compress((folder / "0.jsonl").read_bytes()))
    (folder / "0.jsonl").unlink()
    plans = processes(folder, 2, 1)
    assert [one.lanes for one in plans] == [1, 1]
    assert "each of the 2 processes reads all of the data" in capsys.readouterr().out
    assert micro_batches(plans, 4) == micro_batches(processes(folder, 1, 2), 4)


def test_a_place_that_was_only_counted_is_refused(folder):
    with pytest.raises(DataError, match="made by a version that could not find a place"):
        lanes_plan(folder).seek({"places": [{"taken": 6, "row": 6, "cursor": None}], "turn": 0}, 3)


def test_rows_that_several_processes_read_count_once(folder):
    plans = processes(folder, 2, 1, 1)
    micro_batches(plans, 3)
    for one in plans:
        for lane in one._opened.values():
            lane._coming.result()
    told = [{n: (lane.samples_read, {}, 1) for n, lane in one._opened.items()} for one in plans]
    plans[0].gather = lambda _: told
    assert plans[0].summary(3)["rows_read"] == max(read for each in told for read, *_ in each.values()) <= 24


def test_what_is_held_out_of_datasets_that_take_turns_is_not_trained_on(tiny_folder, tmp_path):
    """The first samples of the mixture are held out, and not the first ones of the first dataset."""
    for name in "ab":
        rows = [{"instruction": f"{name}{row}", "output": "yes"} for row in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model_name_or_path": str(tiny_folder), "dataset": [str(tmp_path / f"{name}.jsonl") for name in "ab"]}
    values |= {"streaming": True, "max_steps": 1, "val_size": 4, "mix_strategy": "interleave_once"}
    settings = load_settings({**values, "do_eval": True})
    template = build_template(settings, find_model(str(tiny_folder)))
    data = build_data(settings, template, STAGES.get("sft"))
    trained = [sample.record.turns[0].content for sample in data.source.read()]
    assert trained == ["a2", "b2", "a3", "b3", "a4", "b4", "a5", "b5"]
    held = [data.eval[""].origin(place)[2] for place in range(4)]
    assert held == [0, 0, 1, 1]
