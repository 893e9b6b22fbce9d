"""What is trained is exactly what the model shall say, in the context inference gives it: for every template.

Over all shipped templates, eight conversations and all mask options. `plain` is the text a template shows of an
answer; templates trim or move white space, so texts are compared without the white space around them.
"""

from __future__ import annotations

import itertools
from datetime import datetime
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.batch.chunks import document_chunk
from burnish.batch.prepare import LabelOptions, prepare, prepare_sample
from burnish.batch.truncation import Limits
from burnish.data.records import Conversation, Document, Sample, Turn
from burnish.errors import TemplateError
from burnish.template import load_template, template_names
from burnish.template.messages import to_messages
from tests.conftest import SHARED, build_tokenizer, family_tokenizer
from tests.conversations import CONVERSATIONS

NAMES = ["tokenizer", *template_names()]
THINKING = (None, True, False)
BEGIN_EVERY_ROUND = ("tokenizer", "llama2", "llama2_zh")
"""The plain tokenizer's beginning token opens every ChatML turn; Llama 2 itself writes one before each question."""
EXACT = ("tokenizer", "default", "chatml", "qwen")
"""Templates that write an answer's text as it stands, white space and all."""


@lru_cache(maxsize=256)
def template_of(name, thinking=None):
    return load_template(family_tokenizer(name), name, enable_thinking=thinking)


def templates(name):
    return [template_of(name, thinking) for thinking in THINKING]


def rows_or_skip(template, conversation, **options):
    try:
        return template.rows(conversation, **options)
    except TemplateError as error:
        if "no place for" not in error.what and "makes one call in a turn" not in error.what:
            raise  # these are the only refusals there are for these conversations
        return None


def joined(row):
    return [token for piece in row for token in piece.ids]


@pytest.mark.parametrize("title", CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_each_answer_stands_once_after_its_own_generation_prompt(name, title):
    conversation = CONVERSATIONS[title]
    for template, split in itertools.product(templates(name), (None, True)):
        rows = rows_or_skip(template, conversation, split=split)
        if rows is None:
            continue
        completed = template.complete(conversation)
        answers = [(row, place) for row in rows for place, piece in enumerate(row) if piece.kind == "answer"]
        asked = [index for index, turn in enumerate(completed.turns) if turn.role == "assistant"]
        assert sorted(row[place].turn for row, place in answers) == asked
        for row, place in answers:
            piece = row[place]
            turns = completed.turns[: piece.turn]
            # Guarantee 3: what stands before the answer is what inference starts from.
            before = template.decode([token for part in row[:place] for token in part.ids], special=True)
            prompt = template.prompt_ids(Conversation(turns, completed.tools))
            assert before == template.decode(prompt, special=True)
            # Guarantee 1: it ends in a token at which inference stops, and holds no other.
            assert piece.ids[-1] in template.stop_ids
            assert not set(piece.ids[:-1]) & template.stop_ids
            # Guarantee 4: it is the assistant's text, and with it the call or thought that belongs to it.
            said = completed.turns[piece.turn]
            text = template.decode(piece.ids[:-1], special=True)
            assert text.strip().endswith(said.content.strip()) or said.tool_calls
            assert said.content.strip() in text
            for call in said.tool_calls:
                assert call.name in text
            assert said.reasoning is None or said.reasoning in text


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_are_those_of_the_whole_text(name):
    """Tokenizing in spans changes nothing where no token reaches over an edge, and here every byte is a token."""
    for template in templates(name):
        for conversation in CONVERSATIONS.values():
            rows = rows_or_skip(template, conversation)
            for plan, row in zip(template.plans(conversation) if rows else (), rows or (), strict=True):
                closing = [] if plan.closing_id is None else [plan.closing_id]
                assert joined(row) == template.encode(plan.text) + closing


@pytest.mark.parametrize("name", NAMES)
def test_a_text_begins_at_most_once(name):
    tokenizer = family_tokenizer(name)
    bos = tokenizer.bos_token_id
    if bos is None or name in BEGIN_EVERY_ROUND:
        return
    for template in templates(name):
        for conversation in CONVERSATIONS.values():
            for row in rows_or_skip(template, conversation) or []:
                assert joined(row)[1:].count(bos) == 0


@pytest.mark.parametrize("title", CONVERSATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_mask_options(name, title):
    template = template_of(name)
    sample = Sample(CONVERSATIONS[title], "set", 0)
    rows = rows_or_skip(template, sample.record)
    if rows is None:
        return
    last = [piece for row in template.rows(sample.record, last_only=True) for piece in row if piece.kind == "answer"]
    [only_last] = prepare_sample(sample, template, LabelOptions(mask_history=True))
    assert [label for label in only_last.example.labels if label != -100] == last[-1].ids
    answers = [
        [label for label in fitted.example.labels if label != -100]
        for fitted in prepare_sample(sample, template, LabelOptions())
    ]
    assert answers == [joined([piece for piece in row if piece.kind == "answer"]) for row in rows]
    everything = prepare_sample(sample, template, LabelOptions(train_on_prompt=True))
    if len(rows) == 1:
        assert everything[0].example.labels == everything[0].example.input_ids
    for fitted, plain in zip(everything, answers, strict=True):
        trained = [label for label in fitted.example.labels if label != -100]
        assert len(trained) > len(plain)
        assert trained[-len(plain) :] == plain or set(plain) <= set(trained)


@pytest.mark.parametrize("name", NAMES)
def test_every_length_gives_labels_or_a_reason(name):
    template = template_of(name)
    for conversation in CONVERSATIONS.values():
        if rows_or_skip(template, conversation) is None:
            continue
        for cutoff, mask_history in itertools.product((1, 20, 60, 150, 400), (False, True)):
            options = LabelOptions(Limits(cutoff), mask_history=mask_history)
            for fitted in prepare_sample(Sample(conversation, "set", 0), template, options):
                if fitted.example is None:
                    assert fitted.reason
                    continue
                assert fitted.example.supervised
                assert len(fitted.example.input_ids) <= cutoff
                trained = [label for label in fitted.example.labels if label != -100]
                assert trained[-1] in template.stop_ids or fitted.cut


def test_old_rounds_go_first_where_only_the_last_answer_is_trained():
    template = load_template(build_tokenizer())
    turns = [Turn("system", "Be kind.")]
    for number in range(6):
        turns += [Turn("user", f"question {number}"), Turn("assistant", f"answer {number}")]
    [fitted] = prepare_sample(
        Sample(Conversation(tuple(turns)), "set", 0), template, LabelOptions(Limits(130), mask_history=True)
    )
    text = template.decode(fitted.example.input_ids, special=True)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nquestion 4<|im_end|>")
    assert text.endswith("answer 5<|im_end|>\n")
    whole = template.rows(Conversation(tuple(turns)), last_only=True)[0]
    assert fitted.cut == len(joined(whole)) - len(fitted.example.input_ids)


@pytest.mark.parametrize("changes", [{}, {"enable_thinking": False}, {"default_system": "Say 'hm' or \"ha\"."}])
@pytest.mark.parametrize("name", template_names())
def test_the_saved_template_renders_alike_without_burnish(name, changes):
    tokenizer = family_tokenizer(name)
    template = load_template(tokenizer, name, today=datetime.now(), **changes)
    for title, conversation in CONVERSATIONS.items():
        if title == "control tokens in words" or rows_or_skip(template, conversation) is None:
            continue
        completed = template.complete(conversation)
        text = tokenizer.apply_chat_template(
            to_messages(completed.turns),
            tools=list(completed.tools) or None,
            chat_template=template.saved_source,
            tokenize=False,
        )
        assert text == template.text(conversation, generate=False)


# -- the three tables of labels ------------------------------------------------------------------------------


def test_pretraining_labels():
    """`bos t1 … t5 eos`, all trained."""
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    template = load_template(tokenizer)
    template.__dict__["_begins_texts"] = True  # as for a tokenizer that begins every text with it
    made = prepare([Sample(Document("abcde"), "set", 0)], template, LabelOptions(), document_chunk)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    letters = tokenizer("abcde", add_special_tokens=False)["input_ids"]
    assert made.examples[0].input_ids == made.examples[0].labels == [bos, *letters, eos]


def test_supervised_labels():
    """`-100 … r1 r2 r3 eos`."""
    template = load_template(family_tokenizer("default"), "default")
    pair = Conversation((Turn("user", "hi"), Turn("assistant", "abc")))
    [fitted] = prepare_sample(Sample(pair, "set", 0), template, LabelOptions())
    answer = [*template.encode("abc"), template.tokenizer.eos_token_id]
    prompt = len("Human: hi") + 1 + len("\nAssistant:")
    assert fitted.example.labels == [-100] * prompt + answer + [-100]


def test_multi_turn_labels():
    """`-100 a1 -100 a2 -100 a3`."""
    template = load_template(family_tokenizer("default"), "default")
    turns = tuple(Turn(role, text) for text in "xyz" for role in ("user", "assistant"))
    [fitted] = prepare_sample(Sample(Conversation(turns), "set", 0), template, LabelOptions())
    shape = [key for key, _ in itertools.groupby(label != -100 for label in fitted.example.labels)]
    assert shape == [False, True, False, True, False, True, False]
    eos = template.tokenizer.eos_token_id
    trained = [label for label in fitted.example.labels if label != -100]
    assert trained == [number for text in "xyz" for number in (*template.encode(text), eos)]


# -- conversations that nobody wrote by hand -----------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)
SPELLING = st.sampled_from(["<|im_end|>", "</s>", "<|eot_id|>", "<think>", "</think>", "[INST]", "\n\n"])
WORDS = st.lists(TEXT | SPELLING, min_size=1, max_size=3).map("".join).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3),
    st.none() | WORDS,
    st.booleans(),
)
def test_any_conversation(name, rounds, system, split):
    template = template_of(name)
    turns = [Turn("system", system)] if system else []
    for asked, said in rounds:
        turns += [Turn("user", asked), Turn("assistant", said)]
    conversation = Conversation(tuple(turns))
    rows = rows_or_skip(template, conversation, split=split or None)
    answers = [piece for row in rows for piece in row if piece.kind == "answer"]
    assert [piece.turn for piece in sorted(answers, key=lambda piece: piece.turn)] == [
        index for index, turn in enumerate(turns) if turn.role == "assistant"
    ]
    for row in rows:
        for place, piece in enumerate(row):
            if piece.kind != "answer":
                continue
            assert piece.ids[-1] in template.stop_ids
            assert not set(piece.ids[:-1]) & template.stop_ids
            if name in EXACT:
                said = turns[piece.turn].content + template.tokenizer.decode([template.terminator_id])
                assert template.decode(piece.ids, special=True) == said
            prompt = template.prompt_ids(Conversation(tuple(turns[: piece.turn])))
            assert [token for part in row[:place] for token in part.ids] == prompt  # every byte is a token here


# -- real tokenizers, where they are at hand -----------------------------------------------------------------


@lru_cache
def real_tokenizer(folder):
    from transformers import AutoTokenizer

    if not (SHARED / "tokenizers" / folder).is_dir():
        pytest.skip("the tokenizers beside the checkout are not there")
    return AutoTokenizer.from_pretrained(SHARED / "tokenizers" / folder)


def own(tokenizer, conversation, generate, **variables):
    return tokenizer.apply_chat_template(
        to_messages(conversation.turns),
        tools=list(conversation.tools) or None,
        add_generation_prompt=generate,
        tokenize=True,
        return_dict=False,
        **variables,
    )


@pytest.mark.parametrize("thinking", THINKING)
@pytest.mark.parametrize("title", [title for title in CONVERSATIONS if title != "control tokens in words"])
@pytest.mark.parametrize(
    ("folder", "name"), [("qwen3", None), ("qwen3", "qwen3"), ("llama3_1", None), ("llama3_1", "llama3")]
)
def test_rendering_equals_the_models_own(folder, name, title, thinking):
    tokenizer = real_tokenizer(folder)
    template = load_template(tokenizer, name, enable_thinking=thinking)
    conversation = CONVERSATIONS[title]
    if folder == "llama3_1" and (conversation.tools or "thinking" in title):
        if name is None and conversation.tools:
            with pytest.raises(TemplateError, match="no place for"):
                template.rows(conversation)
        return  # the tokenizer's own template knows neither tools nor thoughts
    completed = template.complete(conversation)
    variables = {} if thinking is None else {"enable_thinking": thinking}
    whole = joined(template.rows(conversation)[-1])
    text = template.decode(whole, special=True)
    assert text == template.decode(own(tokenizer, completed, False, **variables), special=True)
    if not title.startswith("spaces"):  # there a token reaches over the edge of an answer: docs/decisions/0003
        assert whole == own(tokenizer, completed, False, **variables)
    asked = Conversation(completed.turns[:-1], completed.tools)
    assert template.prompt_ids(asked) == own(tokenizer, asked, True, **variables)
