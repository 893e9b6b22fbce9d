"""The quick way of labelling a chunk gives what the thorough way gives, for every template and option."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.batch import chunks, quick
from burnish.batch.chunks import LabelOptions, conversation_chunk
from burnish.batch.truncation import Limits
from burnish.data.records import Conversation, Sample, Turn
from burnish.errors import BurnishError
from burnish.template import load_template, template_names
from tests.conftest import build_tokenizer, family_tokenizer
from tests.conversations import CONVERSATIONS

TALKS = [talk for talk in CONVERSATIONS.values() if not talk.tools] + [
    Conversation(
        (Turn("user", "Hi"), Turn("assistant", "Yes", weight=0.0), Turn("user", "?"), Turn("assistant", "No"))
    ),
    Conversation((Turn("user", "Hi"), Turn("assistant", "A half", weight=0.5))),
    Conversation((Turn("user", "What? " * 40), Turn("assistant", "This. " * 40))),
]
OPTIONS = [
    LabelOptions(),
    LabelOptions(mask_history=True),
    LabelOptions(train_on_prompt=True),
    LabelOptions(split_turns=True),
    LabelOptions(Limits(cutoff_len=60)),
    LabelOptions(Limits(max_source=5)),
    LabelOptions(Limits(cutoff_len=60, overlong="drop")),
]
THINKING = ("glm4_moe", "qwen3")
QUICK = ("tokenizer", "chatml", "llama3", "gemma", "qwen3_nothink", "phi4", "mistral_small", "deepseek3", "glm4")


def samples_of(talks):
    return [Sample(talk, "test", row) for row, talk in enumerate(talks)]


def made(function, *arguments):
    try:
        chunk = function(*arguments)
    except BurnishError as error:
        return str(error)
    arrays = [chunk.ids, chunk.ends, chunk.trained, chunk.owners, chunk.weights]
    return [None if each is None else (each.dtype, each.tolist()) for each in arrays], chunk.dropped, chunk.split


def thorough(samples, template, options):
    return chunks._one_by_one(samples, range(len(samples)), template, options)


@pytest.mark.parametrize("name", ["tokenizer", *template_names()])
def test_every_template_and_option(name):
    thinking = False if name in THINKING else None
    template = load_template(family_tokenizer(name), name, enable_thinking=thinking, today=datetime(2026, 1, 31))
    samples = [one for one in samples_of(TALKS) if isinstance(made(thorough, [one], template, OPTIONS[0]), tuple)]
    for options in OPTIONS if name in QUICK else OPTIONS[:1]:
        assert made(conversation_chunk, samples, template, options) == made(thorough, samples, template, options)
    if name in QUICK:
        found = quick.quick_rows(samples, template, most=2048, last_only=False, split=False, whole=False)
        assert found is not None
        assert len(found.owners) >= 4


words = st.text(alphabet=st.sampled_from("ab \n<|>_/imstarendé长🏯"), min_size=1, max_size=12) | st.sampled_from(
    ["<|im_end|>", "<|im_", "end|>", "</think>", "<think>", " <|im_start|>", "\ufdd0", "\ufdd3"]
)
TEMPLATES = {name: load_template(family_tokenizer(name), name) for name in ("tokenizer", "llama3", "qwen3", "gemma")}


@pytest.mark.parametrize("name", TEMPLATES)
@given(st.lists(st.lists(words, min_size=2, max_size=6), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_words(name, talks):
    roles = ("user", "assistant")
    conversations = [
        Conversation(tuple(Turn(roles[place % 2], text) for place, text in enumerate(talk[: len(talk) // 2 * 2])))
        for talk in talks
    ]
    samples = samples_of(conversations)
    assert made(conversation_chunk, samples, TEMPLATES[name], LabelOptions()) == made(
        thorough, samples, TEMPLATES[name], LabelOptions()
    )


def plain_chat():
    talk = Conversation((Turn("user", "What is it?"), Turn("assistant", "A lamp.")))
    return load_template(build_tokenizer(), "chatml"), samples_of([talk] * 5)


def test_a_shape_that_says_otherwise_at_its_first_row_is_taken_back():
    template, samples = plain_chat()
    expected = made(thorough, samples, template, LabelOptions())
    (shape, _) = template.shapes.find(samples[0].record, last_only=False)
    shape.answers = tuple(replace(answer, end=None) for answer in shape.answers)
    assert made(conversation_chunk, samples, template, LabelOptions()) == expected
    assert template.shapes.find(samples[0].record, last_only=False) is not shape


def test_a_shape_that_says_otherwise_later_is_a_defect(monkeypatch):
    template, samples = plain_chat()
    monkeypatch.setattr(quick, "COMPARE_EVERY", 5)
    conversation_chunk(samples, template, LabelOptions())
    (shape, _) = template.shapes.find(samples[0].record, last_only=False)
    shape.answers = tuple(replace(answer, end=None) for answer in shape.answers)
    with pytest.raises(RuntimeError, match="renders it in another way"):
        conversation_chunk(samples, template, LabelOptions())


def test_the_first_row_of_a_shape_is_compared(monkeypatch):
    template, samples = plain_chat()
    compared = []
    monkeypatch.setattr(chunks, "_same", lambda one, *_: compared.append(one.place) or True)
    conversation_chunk(samples, template, LabelOptions())
    conversation_chunk(samples, template, LabelOptions())
    assert compared == [0]


def test_rows_of_both_ways_stand_in_the_order_of_the_samples():
    template, samples = plain_chat()
    half = Conversation((Turn("user", "And?"), Turn("assistant", "Heavy.", weight=0.5)))
    mixed = [samples[0], Sample(half, "test", 9), samples[1]]
    chunk = conversation_chunk(mixed, template, LabelOptions())
    assert chunk.owners.tolist() == [0, 1, 2]
    assert made(conversation_chunk, mixed, template, LabelOptions()) == made(thorough, mixed, template, LabelOptions())
    assert np.unique(chunk.weights).tolist() == [0.0, 0.5, 1.0]
