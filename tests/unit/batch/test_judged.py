"""Pairs and marked answers as examples: what is shared, what is trained, what is dropped, how long ones are cut."""

import pytest

from burnish.batch.chunks import LabelOptions
from burnish.batch.judged import feedback_chunk, preference_chunk
from burnish.batch.plan import SingleRows, packed_units
from burnish.batch.prepare import prepare
from burnish.batch.store import Counts, SetWriter
from burnish.batch.truncation import DROPPED_ALIKE, DROPPED_TOO_LONG, Limits
from burnish.data.records import Conversation, Feedback, Preference, Sample, ToolCall, Turn
from burnish.errors import DataError
from burnish.template import ChatTemplate, load_family
from tests.conftest import family_tokenizer


def turns(*words):
    return tuple(Turn("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(words))


def pair(chosen, rejected, *before, row=0):
    prompt = Conversation(turns(*(before or ("Say it",))))
    return Sample(Preference(prompt, (Turn("assistant", chosen),), (Turn("assistant", rejected),)), "d", row, "f")


def judged(answer, desirable, *before, row=0):
    return Sample(Feedback(Conversation(turns(*(before or ("Say it",)), answer)), desirable), "d", row, "f")


def limited(cutoff, overlong="truncate", **more):
    return LabelOptions(Limits(cutoff, overlong, **more))


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def supervised(template, example):
    return template.decode([label for label in example.labels if label != -100], special=True)


def split(example):
    """(prompt ids, trained ids); what is trained stands in one piece at the end."""
    first = next(place for place, label in enumerate(example.labels) if label != -100)
    assert example.labels[first:] == example.input_ids[first:]
    return example.input_ids[:first], example.input_ids[first:]


def test_a_margin_is_the_mark_of_the_rejected_answer(template):
    from dataclasses import replace

    from burnish.batch.collate import Layout
    from burnish.batch.pairs import collate_pairs

    wide, close, plain = pair("good", "bad", row=0), pair("fine", "bad", row=1), pair("ok", "no", row=2)
    wide = replace(wide, record=replace(wide.record, margin=1.5))
    close = replace(close, record=replace(close.record, margin=0.0))
    examples = [example for example, _ in preference_chunk([wide, close, plain], template, LabelOptions()).examples()]
    assert [example.mark for example in examples] == [1.0, -1.5, 1.0, 0.0, 1.0, 0.0]
    assert collate_pairs(examples, range(6), Layout(True)).marks.tolist() == [1.0, -1.5, 1.0, 0.0, 1.0, 0.0]
    assert collate_pairs(examples[2:], range(4), Layout(True)).marks is None


def test_a_pair_is_two_examples_that_share_their_prompt(template):
    chunk = preference_chunk([pair("good", "bad", "Hi", "Hello", "Say it")], template, LabelOptions())
    (chosen, owner), (rejected, other) = chunk.examples()
    assert owner == other == 0
    assert (chosen.mark, rejected.mark) == (1.0, 0.0)
    assert split(chosen)[0] == split(rejected)[0]
    assert template.decode(split(chosen)[0], special=True).endswith("Say it<|im_end|>\n<|im_start|>assistant\n")
    assert supervised(template, chosen) == "good<|im_end|>"  # the history is read, not trained
    assert supervised(template, rejected) == "bad<|im_end|>"


def test_the_prompt_is_what_inference_starts_from(template):
    sample = pair("good", "bad")
    [(chosen, _), _] = preference_chunk([sample], template, LabelOptions()).examples()
    assert split(chosen)[0] == template.prompt_ids(sample.record.prompt)


def test_train_on_prompt_and_weights_of_turns_mean_nothing(template):
    record = pair("good", "bad").record
    record = Preference(record.prompt, (Turn("assistant", "good", weight=0.0),), record.rejected)
    options = LabelOptions(train_on_prompt=True)
    [(chosen, _), (rejected, _)] = preference_chunk([Sample(record, "d", 0)], template, options).examples()
    assert supervised(template, chosen) == "good<|im_end|>"
    assert supervised(template, rejected) == "bad<|im_end|>"
    assert chosen.weights is None


def test_all_that_the_assistant_says_after_the_shared_prompt_is_trained():
    template = ChatTemplate(family_tokenizer("qwen"), load_family("qwen").source)
    call = Turn("assistant", "", tool_calls=(ToolCall("look", {"at": "a"}),))
    chosen = (call, Turn("tool", "42"), Turn("assistant", "It is 42"))
    rejected = (Turn("assistant", "No idea"),)
    prompt = Conversation(turns("What is it?"), ({"name": "look", "description": "d", "parameters": {}},))
    chunk = preference_chunk([Sample(Preference(prompt, chosen, rejected), "d", 0)], template, LabelOptions())
    (better, _), (worse, _) = chunk.examples()
    trained = supervised(template, better)
    assert '"look"' in trained
    assert trained.endswith("It is 42<|im_end|>")
    assert "42</tool_response>" not in trained.replace("\n", "")
    first = next(place for place, label in enumerate(better.labels) if label != -100)
    assert better.input_ids[:first] == split(worse)[0]


def test_equal_answers_are_dropped_and_counted(template):
    chunk = preference_chunk([pair("same", "same"), pair("a", "b", row=1)], template, LabelOptions())
    assert chunk.dropped == {DROPPED_ALIKE: 1}
    assert chunk.owners.tolist() == [1, 1]


def test_answers_that_differ_only_behind_the_cut_are_dropped(template):
    long = "x" * 100
    chunk = preference_chunk([pair(long + "1", long + "2")], template, limited(60))
    assert chunk.dropped == {DROPPED_ALIKE: 1}


@pytest.mark.parametrize("cutoff", range(30, 140, 3))
def test_both_are_cut_alike_and_the_prompt_stays_shared(template, cutoff):
    sample = pair("b" * 50, "a" * 9, "w" * 40)
    chunk = preference_chunk([sample], template, limited(cutoff))
    (chosen, _), (rejected, _) = chunk.examples()
    assert max(len(chosen.input_ids), len(rejected.input_ids)) <= cutoff
    assert split(chosen)[0] == split(rejected)[0]
    assert template.decode(split(chosen)[0], special=True).endswith("<|im_start|>assistant\n") or cutoff < 60
    whole = preference_chunk([sample], template, LabelOptions())
    assert chunk.shortened == (int(whole.ends[0]) > cutoff)
    if cutoff >= int(whole.ends[0]):
        assert supervised(template, chosen).endswith("<|im_end|>")


def test_llamafactorys_split_of_the_budget(template):
    # A prompt of 30 bytes and 51 tokens of answer in 60: the answer takes 60 x 51/(p+51), the prompt the rest.
    sample = pair("b" * 50, "a", "w" * 40)
    prompt = len(template.prompt_ids(sample.record.prompt))
    [(chosen, _), (rejected, _)] = preference_chunk([sample], template, limited(80)).examples()
    answer = int(80 * (51 / (prompt + 51)))
    assert [len(part) for part in split(chosen)] == [80 - answer, answer]
    assert supervised(template, rejected) == "a<|im_end|>"


def test_old_rounds_go_first(template):
    sample = pair("good", "bad", "A" * 50, "B" * 50, "last question")
    [(chosen, _), (rejected, _)] = preference_chunk([sample], template, limited(100)).examples()
    shown = template.decode(chosen.input_ids, special=True)
    assert "AAA" not in shown
    assert "last question" in shown
    assert supervised(template, chosen) == "good<|im_end|>"
    assert split(chosen)[0] == split(rejected)[0]
    [(longer_rejected, _), _] = preference_chunk(
        [pair("bad", "good", "A" * 50, "B" * 50, "last question")], template, limited(100)
    ).examples()
    assert split(longer_rejected)[0] == split(chosen)[0]


def test_too_long_pairs_may_be_dropped_or_refused(template):
    long = pair("x" * 200, "y")
    assert preference_chunk([long], template, limited(100, "drop")).dropped == {DROPPED_TOO_LONG: 1}
    with pytest.raises(DataError) as caught:
        preference_chunk([long], template, limited(100, "error"))
    assert "more than cutoff_len 100" in caught.value.what
    assert caught.value.at == "d, row 0"


def test_older_limits_of_both_parts(template):
    sample = pair("b" * 50, "a" * 40, "w" * 40)
    options = limited(2048, max_source=20, max_target=10)
    for example, _ in preference_chunk([sample], template, options).examples():
        assert [len(part) for part in split(example)] == [20, 10]


def test_other_records_are_refused(template):
    with pytest.raises(DataError) as caught:
        preference_chunk([judged("a", True)], template, LabelOptions())
    assert "not Feedback" in caught.value.what
    with pytest.raises(DataError) as caught:
        feedback_chunk([pair("a", "b")], template, LabelOptions())
    assert "not Preference" in caught.value.what


def test_marked_answers_keep_their_mark_and_train_the_last_answer_alone(template):
    samples = [judged("good", True, "Hi", "Hello", "So?"), judged("bad", False, row=1), judged("fine", True, row=2)]
    done = prepare(samples, template, LabelOptions(train_on_prompt=True), feedback_chunk)
    assert [example.mark for example in done.examples] == [1.0, 0.0, 1.0]
    assert [supervised(template, example) for example in done.examples] == [
        "good<|im_end|>",
        "bad<|im_end|>",
        "fine<|im_end|>",
    ]


def test_the_store_keeps_pairs_marks_and_their_order(template, tmp_path):
    samples = [pair(f"good{row}", f"bad{row}", row=row) for row in range(5)]
    chunk = preference_chunk(samples, template, LabelOptions())
    writer = SetWriter(tmp_path / "set")
    writer.add(chunk, samples)
    stored = writer.finish(Counts())
    assert list(stored) == prepare(samples, template, LabelOptions(), preference_chunk).examples
    assert stored.marks.tolist() == [1.0, 0.0] * 5
    assert [stored.origin(number)[2] for number in range(10)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_marks_are_part_of_the_fingerprint(template, tmp_path):
    prints = set()
    for name, desirable in (("a", True), ("b", False)):
        samples = [judged("x", True), judged("y", desirable, row=1)]
        writer = SetWriter(tmp_path / name)
        writer.add(feedback_chunk(samples, template, LabelOptions()), samples)
        prints.add(writer.finish(Counts()).about["fingerprint"])
    assert len(prints) == 2


def test_pairs_stay_together_in_rows():
    assert list(SingleRows(2, 2)[1]) == [2, 3]
    rows = packed_units([5, 3, 9, 9, 1, 1], 5, 2)  # pairs of 8, 18 and 2 tokens into rows of 10
    assert sorted(map(sorted, rows)) == [[0, 1, 4, 5], [2, 3]]
    assert all(row[place] + 1 == row[place + 1] for row in rows for place in range(0, len(row), 2))
