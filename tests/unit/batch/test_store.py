"""Sets on disk give back what was put in, whole or not at all, whatever the number of processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from burnish.batch.chunks import CHUNK, Chunk, LabelOptions, conversation_chunk, document_chunk
from burnish.batch.prepare import prepare
from burnish.batch.store import STORE_VERSION, Counts, Selection, SetWriter, open_set
from burnish.batch.truncation import Limits
from burnish.batch.windows import Windows
from burnish.batch.workers import WorkerError, make_chunks
from burnish.data.records import Conversation, Document, Sample, Turn
from burnish.errors import DataError, TemplateError
from burnish.template import load_template
from tests.conftest import build_tokenizer


def sample(row, weight=1.0, name="one"):
    turns = (Turn("user", f"question {row}"), Turn("assistant", "answer " * (1 + row % 4), weight=weight))
    return Sample(Conversation(turns), name, row, f"{name}.jsonl")


def stored(folder, samples, options=None, make=conversation_chunk, size=7):
    template = load_template(build_tokenizer())
    writer = SetWriter(folder, labels="x")
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        writer.add(make(part, template, options or LabelOptions()), part)
    return writer.finish(Counts(rows_read=len(samples), notes=["read"]))


def test_examples_come_back_as_they_were(tmp_path):
    samples = [sample(row, weight=0.5 if row == 9 else 1.0) for row in range(20)]
    found = stored(tmp_path / "set", samples)
    expected = prepare(samples, load_template(build_tokenizer()), LabelOptions())
    assert list(found) == expected.examples
    assert found.lengths.tolist() == [len(one.input_ids) for one in expected.examples]
    assert found.supervised.tolist() == [one.supervised for one in expected.examples]
    assert found.origin(13) == ("one", "one.jsonl", 13)
    assert found[9].weights is not None
    assert found.about["notes"] == ["read"]
    again = open_set(tmp_path / "set")
    assert list(again) == list(found)
    assert again.about["fingerprint"] == found.about["fingerprint"]
    with pytest.raises(IndexError):
        found[20]


def test_a_set_is_whole_or_absent(tmp_path):
    template = load_template(build_tokenizer())
    writer = SetWriter(tmp_path / "set")
    writer.add(conversation_chunk([sample(0)], template, LabelOptions()), [sample(0)])
    assert open_set(tmp_path / "set") is None
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_two_that_prepare_the_same_set_do_not_disturb_each_other(tmp_path):
    template = load_template(build_tokenizer())
    writers = [SetWriter(tmp_path / "set") for _ in range(2)]
    samples = [sample(row) for row in range(5)]
    for writer in writers:
        writer.add(conversation_chunk(samples, template, LabelOptions()), samples)
    first, second = (writer.finish(Counts()) for writer in writers)
    assert list(first) == list(second)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_broken_set_is_replaced(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.json").write_text("{")
    assert open_set(tmp_path / "set") is None
    assert len(stored(tmp_path / "set", [sample(0)])) == 1


def test_a_set_of_an_older_version_is_made_anew(tmp_path):
    found = stored(tmp_path / "set", [sample(0)])
    about = json.loads((tmp_path / "set" / "set.json").read_text())
    (tmp_path / "set" / "set.json").write_text(json.dumps({**about, "version": 0}))
    assert open_set(tmp_path / "set") is None
    assert found.about["version"] == STORE_VERSION


def test_selections(tmp_path):
    found = stored(tmp_path / "set", [sample(row) for row in range(10)] + [sample(3)])
    some = Selection(found, np.array([7, 3, 10]))
    assert [one.input_ids for one in some] == [found[7].input_ids, found[3].input_ids, found[10].input_ids]
    assert some.lengths.tolist() == found.lengths[[7, 3, 10]].tolist()
    assert some.rows == 2  # row 3 is there twice


def test_windows_over_documents_lose_no_token(tmp_path):
    samples = [Sample(Document("x" * length), "set", row, "f") for row, length in enumerate((5, 30, 1, 12))]
    found = stored(tmp_path / "set", samples, LabelOptions(Limits(16)), document_chunk, size=2)
    cut = Windows(Selection(found, np.arange(len(found))), 16)
    whole = [token for example in found for token in example.input_ids]
    assert [token for example in cut for token in example.input_ids] == whole
    assert [len(example.input_ids) for example in cut] == cut.lengths.tolist() == [16, 16, 16, 4]
    assert cut.supervised.tolist() == [one.supervised for one in cut]
    assert whole.count(build_tokenizer().eos_token_id) == len(samples)
    assert cut.origin(1)[2] == 1
    # Documents of 6, 31, 2 and 13 tokens with their ends: 16 | 16 | 7 and 9 | 4.
    assert [[row for _, _, row in cut.origins(number)] for number in range(4)] == [[0, 1], [1], [1, 2, 3], [3]]
    assert all(example.labels == example.input_ids for example in cut)
    assert cut.rows == 4


def flat(chunks):
    made = list(chunks)
    return [example for chunk, _ in made for example, _ in chunk.examples()], [s for _, part in made for s in part]


def test_processes_change_nothing():
    samples = [sample(row) for row in range(CHUNK * 6 + 3)]
    template, options = load_template(build_tokenizer()), LabelOptions()
    alone = flat(make_chunks(iter(samples), template, options, conversation_chunk, 1))
    shared = flat(make_chunks(iter(samples), template, options, conversation_chunk, 2))
    assert alone == shared
    assert alone[1] == samples


def test_an_error_in_a_process_is_the_users_error():
    samples = [sample(row) for row in range(CHUNK * 5)]
    samples[-1] = replace(samples[-1], record=replace(samples[-1].record, tools=({"name": "f"},)))
    chunks = make_chunks(samples, load_template(build_tokenizer()), LabelOptions(), conversation_chunk, 2)
    with pytest.raises(TemplateError, match="no place for descriptions of tools") as caught:
        list(chunks)
    assert "one, row 2499" in caught.value.at


def test_a_dead_process_is_an_error_that_says_so():
    samples = [sample(row) for row in range(CHUNK * 5)]
    with pytest.raises(WorkerError, match="has died with exit code 7"):
        list(make_chunks(samples, load_template(build_tokenizer()), LabelOptions(), _late, 2))


def _late(samples, template, options):
    import os

    if os.environ.get("TOKENIZERS_PARALLELISM") == "false" and samples[0].row >= CHUNK * 4:
        os._exit(7)
    return conversation_chunk(samples, template, options)


def test_empty_sets_and_windows(tmp_path):
    assert len(stored(tmp_path / "none", [])) == 0
    with pytest.raises(DataError, match="needs conversations"):
        stored(tmp_path / "wrong", [Sample(Document("x"), "set", 0)])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc")
def test_looking_at_a_whole_set_keeps_little_of_it_in_memory(tmp_path):
    """40 MB of tokens: without letting go of pages all of them stay."""
    writer, tokens, count = SetWriter(tmp_path / "set"), 4000, 250
    ends = tokens * np.arange(1, count + 1)
    for first in range(0, 8 * count, count):
        ids = np.arange(count * tokens, dtype=np.int32)
        chunk = Chunk(ids, ends, np.ones(len(ids), bool), None, np.arange(count))
        writer.add(chunk, [Sample(Document(""), "set", first + place, "f") for place in range(count)])
    found = writer.finish(Counts())
    before = file_pages_mb()
    assert int(found.supervised.sum()) == 8 * count * (tokens - 1)
    assert sum(found[place].input_ids[-1] for place in range(0, len(found), 3))
    assert file_pages_mb() - before < 15


def file_pages_mb():
    """Memory of this process that is pages of files."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) / 1024
