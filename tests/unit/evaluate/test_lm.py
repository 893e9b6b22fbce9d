"""Our models as lm-eval asks them give the numbers that lm-eval's own adapter gives."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from burnish.data.records import Conversation, Turn
from burnish.evaluate.lm import EngineLM, read_wishes
from burnish.generate.chat import ChatModel
from burnish.template import load_template
from tests.conftest import build_model, build_tokenizer


def asked(kind, *arguments):
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


@pytest.fixture(scope="module")
def pair():
    """Ours and theirs around the same weights."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = build_model().eval(), build_tokenizer()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1, device="cpu")
    chat = ChatModel(model, load_template(tokenizer), "tiny")
    return EngineLM(chat, templated=False), theirs


QUESTIONS = [
    ("The sky is", " blue"),
    ("The sky is ", "green"),  # the space goes to the continuation
    ("", "no context"),
    ("One and one are", " two"),
    ("One and one are", " three"),
    ("x" * 600, " too long"),
]


def test_likelihoods_are_theirs(pair):
    ours, theirs = pair
    found = ours.loglikelihood(asked("loglikelihood", *QUESTIONS))
    wanted = theirs.loglikelihood(asked("loglikelihood", *QUESTIONS), disable_tqdm=True)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_the_greedy_continuation_is_greedy_in_both(pair):
    ours, theirs = pair
    [text] = ours.generate_until(asked("generate_until", ("Hello", {"max_gen_toks": 3})))
    if not text.isascii():
        pytest.skip("the tiny model says no whole character")
    both = [model.loglikelihood(asked("loglikelihood", ("Hello", text)))[0] for model in (ours, theirs)]
    assert both[0][1]
    assert both[1][1]


def test_rolling_likelihoods_are_theirs(pair):
    ours, theirs = pair
    texts = [("short",), ("long " * 250,), ("as long as the window" * 30,)]
    found = ours.loglikelihood_rolling(asked("loglikelihood_rolling", *texts))
    wanted = theirs.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert found == pytest.approx(wanted, abs=1e-3, rel=1e-6)


def test_answers_are_theirs_and_end_at_texts_that_span_tokens(pair):
    ours, theirs = pair
    [whole] = ours.generate_until(asked("generate_until", ("Tell me", {"max_gen_toks": 40})))
    stop = whole[5:8]  # every byte is a token, so it spans several
    assert stop
    wishes = [{"max_gen_toks": 40}, {"until": [stop], "max_gen_toks": 40}, {"until": "never said", "max_gen_toks": 7}]
    questions = [(text, each) for text in ("Tell me", "Tell me", "Why?", "y" * 500) for each in wishes]
    found = ours.generate_until(asked("generate_until", *questions))
    wanted = theirs.generate_until(asked("generate_until", *questions), disable_tqdm=True)
    assert found == wanted
    assert found[1] == whole[: whole.index(stop)]


def test_chat_prompts_are_those_of_training():
    tokenizer = build_tokenizer()
    template = load_template(tokenizer, default_system="Be brief.")
    ours = EngineLM(ChatModel(build_model().eval(), template, "tiny"), templated=True)
    history = [{"role": "user", "content": "Is <|im_end|> a token?"}]
    text = ours.apply_chat_template(history)
    conversation = Conversation((Turn("user", history[0]["content"]),))
    assert ours.tok_encode(text) == template.prompt_ids(conversation)
    begun = ours.apply_chat_template([*history, {"role": "assistant", "content": "Yes"}], add_generation_prompt=False)
    assert ours.tok_encode(begun) == [*template.prompt_ids(conversation), *template.encode("Yes")]


def test_a_question_without_room_for_an_answer_is_an_error(pair):
    from burnish.errors import ModelError

    with pytest.raises(ModelError, match="window has 512"):
        pair[0].generate_until(asked("generate_until", ("Hello", {"max_gen_toks": 512})))


@pytest.mark.parametrize(
    ("wishes", "drawn", "limit", "until"),
    [
        ({}, False, 256, ()),
        ({"until": "x", "max_new_tokens": 9}, False, 9, ("x",)),
        ({"do_sample": True, "temperature": 0.7}, True, 256, ()),
        ({"do_sample": False, "temperature": 0.7}, False, 256, ()),
        ({"temperature": 0.7}, True, 256, ()),
        ({"do_sample": True, "temperature": 0.0}, False, 256, ()),
    ],
)
def test_wishes_of_tasks(wishes, drawn, limit, until):
    found = read_wishes(wishes, {"top_k": 5, "repetition_penalty": 1.1}, seed=3)
    assert (found.sampling.do_sample, found.sampling.max_new_tokens, found.until) == (drawn, limit, until)
    assert found.sampling.top_k == (5 if drawn else 0)
    assert found.sampling.repetition_penalty == 1.1
