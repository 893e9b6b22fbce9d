"""Corners in which labels went wrong once."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from burnish.batch.chunks import LabelOptions, document_chunk, prepare_sample
from burnish.batch.prepare import prepare
from burnish.batch.truncation import Limits
from burnish.data.records import Conversation, Document, Sample, ToolCall, Turn
from burnish.errors import TemplateError
from burnish.template import load_template
from burnish.template.render import CannotRender
from burnish.template.standin import byte_tokenizer
from tests.conftest import build_tokenizer, family_tokenizer
from tests.conversations import WEATHER


def user(text):
    return Turn("user", text)


def said(text, **other):
    return Turn("assistant", text, **other)


def fitted(template, turns, options, tools=()):
    return prepare_sample(Sample(Conversation(tuple(turns), tools), "set", 0), template, options)


def texts(template, found):
    return [template.decode(one.example.input_ids, special=True) for one in found]


def trained(template, one):
    return template.decode([label for label in one.example.labels if label != -100], special=True)


def test_a_long_conversation_that_is_split_is_shortened_in_reasonable_time():
    template = load_template(family_tokenizer("qwen3"), "qwen3")
    turns = [turn for number in range(60) for turn in (user(f"question {number}"), said(f"answer {number}"))]
    found = fitted(template, turns, LabelOptions(Limits(400)))
    assert len(found) == 60
    assert all(len(one.example.input_ids) <= 400 for one in found)
    last = texts(template, found)[-1]
    assert last.startswith("<|im_start|>user\nquestion ")
    assert last.endswith("answer 59<|im_end|>\n")


def test_old_tool_calls_go_before_new_ones():
    template = load_template(family_tokenizer("qwen"), "qwen")
    turns = [user("find it")]
    for number in range(12):
        turns += [
            said("", tool_calls=(ToolCall("get_weather", {"city": f"{number}"}),)),
            Turn("tool", f"result {number}"),
        ]
    turns.append(said("done"))
    whole = len(template.encode(template.text(Conversation(tuple(turns), (WEATHER,)), generate=False)))
    [one] = fitted(template, turns, LabelOptions(Limits(whole - 500), mask_history=True), (WEATHER,))
    [text] = texts(template, [one])
    assert "find it" in text
    assert "result 11" in text
    assert "result 0" not in text
    assert text.endswith("<|im_start|>assistant\ndone<|im_end|>\n")


def test_frequent_text_is_no_control_token():
    tokenizer = byte_tokenizer((), None, "</s>")
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    template = load_template(tokenizer, "alpaca")
    [one] = fitted(template, (user("a\n\nb"), said("c\n\nd")), LabelOptions())
    assert trained(template, one) == "c\n\nd</s>"
    blank = tokenizer.convert_tokens_to_ids("\n\n")
    assert [label for label in one.example.labels if label != -100].count(blank) == 1


def test_a_stop_spelt_in_a_thought_or_an_argument_does_not_end_the_answer():
    template = load_template(family_tokenizer("qwen3"), "qwen3", split_special_tokens=False)
    [one] = fitted(template, (user("?"), said("done", reasoning="think <|im_end|> more")), LabelOptions())
    assert trained(template, one).endswith("done<|im_end|>")
    call = said("", tool_calls=(ToolCall("get_weather", {"city": "<|im_end|>"}),))
    [one, *_] = fitted(template, (user("?"), call), LabelOptions(), (WEATHER,))
    assert trained(template, one).endswith("</tool_call><|im_end|>")


def test_train_on_prompt_trains_each_turn_once_and_weights_hold():
    template = load_template(family_tokenizer("qwen3"), "qwen3")
    options = LabelOptions(train_on_prompt=True)
    first, second = fitted(template, (user("u1"), said("a1"), user("u2"), said("a2")), options)
    assert "u1" in trained(template, first)
    assert "a1" in trained(template, first)
    assert "a1" not in trained(template, second)
    assert "u2" in trained(template, second)
    *_, only = fitted(template, (user("u1"), said("a1", weight=0.0), user("u2"), said("a2")), options)
    assert "a2" in trained(template, only)


def test_no_document_loses_its_end():
    template = load_template(build_tokenizer())
    samples = [Sample(Document("x" * 16), "set", 0), Sample(Document("y" * 3), "set", 1)]
    made = prepare(samples, template, LabelOptions(Limits(16)), document_chunk)
    flat = [token for example in made.examples for token in example.input_ids]
    assert flat.count(template.tokenizer.eos_token_id) == 2
    assert all(example.supervised for example in made.examples)


def test_weights_of_nothing_but_the_last_answer_count_as_mask_history():
    template = load_template(build_tokenizer())
    turns = []
    for number in range(6):
        turns += [user(f"question number {number}"), said(f"answer {number}", weight=float(number == 5))]
    options = LabelOptions(Limits(100))
    [weighted] = fitted(template, turns, options)
    [masked] = fitted(template, turns, LabelOptions(Limits(100), mask_history=True))
    assert weighted.example == masked.example
    assert "question number 5" in texts(template, [weighted])[0]


@pytest.mark.parametrize("question", ["assistant", "a", "s", "start", "user"])
def test_the_header_is_not_looked_for_in_the_text(question):
    template = load_template(build_tokenizer())
    turns = (Turn("system", "rule " * 20), user(question), said("Hello there"))
    [one] = fitted(template, turns, LabelOptions(Limits(60)))
    assert texts(template, [one])[0].endswith("<|im_end|>\n<|im_start|>assistant\nHello there<|im_end|>\n")


def test_a_thought_is_a_thought_even_where_its_tag_is_special():
    tokenizer = byte_tokenizer(("<|im_start|>", "<|im_end|>"), None, "<|im_end|>")
    tokenizer.add_tokens([AddedToken(tag, special=True, normalized=False) for tag in ("<think>", "</think>")])
    template = load_template(tokenizer, "qwen3")
    [one] = fitted(template, (user("?"), said("<think>\nfoo\n</think>\n\nyo")), LabelOptions())
    assert one.example.labels.count(tokenizer.convert_tokens_to_ids("<think>")) == 1


def test_a_thought_that_lost_its_opening_tag_is_left_out_too():
    template = load_template(family_tokenizer("qwen3"), "qwen3", enable_thinking=False)
    [one] = fitted(template, (user("?"), said("because\n</think>\n\nyo")), LabelOptions())
    assert trained(template, one) == "yo<|im_end|>"


def test_a_template_whose_end_the_tokenizer_lacks_is_refused():
    with pytest.raises(TemplateError, match="ends answers with <end_of_turn>"):
        load_template(build_tokenizer(), "gemma")


def test_the_cap_on_answers_holds():
    template = load_template(build_tokenizer())
    [one] = fitted(template, (user("one two three"), said("abcdef")), LabelOptions(Limits(200, max_target=6)))
    assert trained(template, one) == "abcdef"
    assert "one two three<|im_end|>" in texts(template, [one])[0]


def test_a_template_that_fails_in_any_way_is_an_error_of_the_template(tmp_path):
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}{{ 1 / 0 }}{% endfor %}")
    with pytest.raises(CannotRender, match="division by zero"):
        load_template(build_tokenizer(), str(broken))
    broken.write_text(" ")
    with pytest.raises(TemplateError, match="is empty"):
        load_template(build_tokenizer(), str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TemplateError, match="cannot be read"):
        load_template(build_tokenizer(), str(broken))
