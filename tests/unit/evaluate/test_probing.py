"""What the doctor measures: losses of answers under their own and other prompts, and what a model says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from burnish.data.records import Conversation, Sample, Turn
from burnish.evaluate import probing
from burnish.evaluate.probing import ask, dependence, found_on, known_ids, measure, pairs_of, strangers
from burnish.generate.chat import ChatModel
from burnish.template import ChatTemplate
from tests.conftest import build_model, build_tokenizer

TEMPLATE = ChatTemplate(build_tokenizer())


def talk(*words):
    return Conversation(tuple(Turn(("user", "assistant")[place % 2], word) for place, word in enumerate(words)))


def samples(count=9, dataset="numbers"):
    return [
        Sample(talk(f"say {n}" * (1 + n % 3), f"{n} " * (1 + n % 4)), dataset, n, f"{dataset}.jsonl")
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def model():
    return build_model().eval()


def logprobs(model, context, ids):
    """The definition: one forward pass, the tokens read off."""
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *ids]])).logits[0].float().log_softmax(-1)
    return [float(logits[len(context) - 1 + place, token]) for place, token in enumerate(ids)]


def test_pairs_are_prompts_and_answers():
    rows = [*samples(2), Sample(talk("no answer"), "numbers", 7), Sample(talk("a", "b", "c", "d"), "numbers", 8)]
    pairs = pairs_of(rows, TEMPLATE, 512)
    assert [pair.item.row for pair in pairs] == [0, 1, 8]
    assert TEMPLATE.decode(pairs[1].ids, special=True) == "1 1 <|im_end|>"
    assert pairs[1].stops
    assert pairs[2].question == "c"
    assert TEMPLATE.decode(pairs[2].item.ids, special=True).endswith("c<|im_end|>\n<|im_start|>assistant\n")
    assert pairs_of(rows, TEMPLATE, 10) == []  # no prompt is that short


def test_a_stranger_is_of_the_same_dataset_and_another_prompt():
    pairs = pairs_of([*samples(5), *samples(4, "others")], TEMPLATE, 512)
    found = strangers(pairs)
    assert found == [2, 3, 4, 0, 1, 7, 8, 5, 6]
    assert strangers(pairs[:1]) == [None]
    same = [replace(pair, item=replace(pair.item, ids=(1, 2))) for pair in pairs[:4]]
    assert strangers(same) == [None] * 4


def test_losses_by_hand(model):
    pairs = pairs_of(samples(), TEMPLATE, 512)
    found, others = measure(model, pairs), strangers(pairs)
    for place, pair in enumerate(pairs):
        own = logprobs(model, pair.item.ids, pair.ids)
        assert found.own[place] == pytest.approx(-sum(own) / len(own), abs=1e-5)
        assert found.stops[place] == pytest.approx(math.exp(own[-1]), rel=1e-4)
        other = logprobs(model, pairs[others[place]].item.ids, pair.ids)
        assert found.other[place] == pytest.approx(-sum(other) / len(other), abs=1e-5)


def test_long_answers_are_cut(model, monkeypatch):
    monkeypatch.setattr(probing, "ANSWER_TOKENS", 4)
    pairs = pairs_of(samples(4), TEMPLATE, 512)
    found = measure(model, pairs)
    assert [len(pair.ids) for pair in pairs] == [3, 5, 7, 9]
    assert [each is None for each in found.stops] == [False, True, True, True]
    first = logprobs(model, pairs[3].item.ids, pairs[3].ids[:4])
    assert found.own[3] == pytest.approx(-sum(first) / 4, abs=1e-5)


def test_datasets_have_figures_of_their_own():
    pairs = pairs_of([*samples(8), *samples(12, "others"), *samples(3, "few")], TEMPLATE, 512)
    likely = probing.Likely([1.0] * 23, [1.5] * 8 + [1.0] * 12 + [None] * 3, [None] * 23)
    first, second = dependence(pairs, likely)
    assert (first.dataset, first.rows, first.gain.value, second.dataset) == ("numbers", 8, 0.5, "others")
    assert (second.gain.low, second.gain.high) == (0.0, 0.0)
    [whole] = dependence(pairs[:8], replace_part(likely, 8))
    assert whole.dataset == ""
    assert dependence(pairs[:7], replace_part(likely, 7)) == ()


def replace_part(likely, count):
    return probing.Likely(likely.own[:count], likely.other[:count], likely.stops[:count])


def test_what_is_found_is_put_together():
    pairs = pairs_of(samples(), TEMPLATE, 512)
    tuned = probing.Likely([1.0] * 9, [2.0] * 9, [0.5, 0.9, None, 0.1, None, None, None, None, None])
    base = probing.Likely([1.0 + n / 8 for n in range(9)], [2.0] * 9, [None] * 9)
    part = found_on(pairs, (), tuned, base)
    assert (part.rows, part.loss, part.base_loss, part.gain.value, part.stops) == (9, 1.0, 1.5, 0.5, 0.5)
    assert 0.25 < part.gain.low < 0.5 < part.gain.high < 0.75
    alone = found_on(pairs, (), tuned, None)
    assert (alone.base_loss, alone.gain, alone.base) == (None, None, ())


def test_answers_are_greedy_and_limited(model):
    pairs = pairs_of(samples(4), TEMPLATE, 512)
    chat = ChatModel(model, TEMPLATE, "tiny")
    found = ask(chat, pairs, batch_size=2, seed=1)
    assert found == ask(chat, pairs, batch_size=4, seed=2)  # nothing is drawn, and the batch changes nothing
    for each, pair in zip(found, pairs, strict=True):
        asked = chat.answer(pair_turns(pair), max_new_tokens=len(pair.ids) * 5 // 4 + 16)
        assert each.answer == asked
        assert each.reference == pair.item.reference
        assert each.file == "numbers.jsonl"
    assert not any(each.ended for each in found)  # a random model goes on and on
    # One that says its reference: equal texts, in the end.
    told = [
        replace(pair, item=replace(pair.item, reference=each.answer)) for pair, each in zip(pairs, found, strict=True)
    ]
    assert all(each.exact and each.likeness == 1.0 for each in ask(chat, told, batch_size=4, seed=1))


def pair_turns(pair):
    return [Turn("user", pair.question)]


def test_a_base_without_the_new_tokens(model):
    pairs = pairs_of(samples(2), TEMPLATE, 512)
    assert known_ids(model, pairs)
    assert not known_ids(build_model(vocab_size=100), pairs)
