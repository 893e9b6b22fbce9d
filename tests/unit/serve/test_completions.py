"""/v1/completions, driven by OpenAI's own client against a scripted engine."""

from __future__ import annotations

import openai
import pytest
from openai.types import completion_create_params

from burnish.serve.bodies import CompletionBody


def ask(client, prompt, **options):
    return client.completions.create(**{"model": "tiny", "prompt": prompt, **options})


def test_text_and_tokens_are_prompts(client, engine, template):
    done = ask(client, "say:Hello")
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("Hello", "stop")
    ids = template.tokenizer("say:Hello")["input_ids"]
    assert list(engine.requests[-1].prompt) == ids
    assert ask(client, ids).choices[0].text == "Hello"
    assert done.usage.prompt_tokens == len(ids)
    assert template.tokenizer.eos_token_id in engine.requests[-1].stop_ids


def test_several_prompts_and_copies(client):
    done = ask(client, ["say:a|b", "say:c|d"], n=2)
    assert [(choice.index, choice.text) for choice in done.choices] == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
    texts = {}
    for chunk in ask(client, ["say:one|two", "say:three"], n=2, stream=True):
        [choice] = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: "one", 1: "two", 2: "three", 3: "three"}


def test_echo_shows_the_prompt_first(client, template):
    assert ask(client, "say:Hello", echo=True).choices[0].text == "say:HelloHello"
    chunks = [chunk.choices[0].text for chunk in ask(client, "say:ab", echo=True, stream=True)]
    assert "".join(chunks) == "say:abab"
    assert ask(client, "say:stop", echo=True, stop="op").choices[0].text == "say:stopst", "the prompt was searched"


def test_log_probabilities(client):
    told = ask(client, "say:aé", logprobs=2).choices[0].logprobs
    assert told.tokens == ["a", "\ufffd", "\ufffd"]
    assert told.token_logprobs == [-0.5] * 3
    assert told.text_offset == [0, 1, 1]
    assert [len(top) >= 1 for top in told.top_logprobs] == [True] * 3
    assert ask(client, "say:a").choices[0].logprobs is None


def test_a_stop_string_ends_it(client):
    assert ask(client, "say:one two", stop=[" t"]).choices[0].text == "one"
    assert "".join(chunk.choices[0].text for chunk in ask(client, "say:one two", stop=" t", stream=True)) == "one"


def test_every_parameter_of_openai_is_known():
    assert set(completion_create_params.CompletionCreateParamsBase.__annotations__) <= set(CompletionBody.model_fields)


@pytest.mark.parametrize(
    ("prompt", "options", "param"),
    [
        ("", {}, "prompt"),
        ([], {}, "prompt"),
        (["a", ""], {}, "prompt"),
        ([[1, 2], []], {}, "prompt"),
        ([100000], {}, "prompt"),
        ([-1], {}, "prompt"),
        (["a"] * 129, {}, "prompt"),
        ("a", {"best_of": 2}, "best_of"),
        ("a", {"suffix": "b"}, "suffix"),
        ("a", {"echo": True, "logprobs": 1}, "logprobs"),
        ("a", {"logprobs": 21}, "logprobs"),
        ("a", {"extra_body": {"messages": []}}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, prompt, options, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, prompt, **options)
    assert refused.value.body["param"].startswith(param)


def test_a_prompt_over_the_context_length(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "x" * 2000)
    assert refused.value.body["code"] == "context_length_exceeded"


def test_more_prompts_than_the_queue_ever_holds_are_no_matter_of_waiting(client, serving):
    most = serving.backend.slots + serving.limits.queue
    with pytest.raises(openai.BadRequestError, match=f"at most {most} prompts") as error:
        client.completions.create(model="tiny", prompt=["say:a"] * (most + 1), max_tokens=1)
    assert error.value.body["param"] == "prompt"
    with pytest.raises(openai.BadRequestError, match=f"at most {most // 2} prompts"):
        client.completions.create(model="tiny", prompt=["say:a"] * most, n=2, max_tokens=1)
    answers = client.completions.create(model="tiny", prompt=["say:a"] * most, max_tokens=1)
    assert len(answers.choices) == most
