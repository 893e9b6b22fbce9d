"""Tools that have to be called, of a served model of random weights, asked by OpenAI's own client."""

from __future__ import annotations

import json

import jsonschema
import openai
import pytest

from burnish.generate.request import Sampling
from burnish.serve.load import Wanted, load_serving
from burnish.template import load_family
from tests.conftest import build_model, family_tokenizer
from tests.serving import running

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "stop"}},
]
WANTED = {"tools": TOOLS, "n": 2, "temperature": 1.0, "top_p": 1.0, "extra_body": {"top_k": 0}, "max_tokens": 300}


@pytest.fixture(scope="module", params=["qwen3", "llama3"])
def client(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = family_tokenizer(request.param)
    tokenizer.chat_template = load_family(request.param).source
    build_model(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    serving = load_serving(
        Wanted(str(folder), name="m", defaults=Sampling(), loading={"use_cpu": True}), lambda _: None
    )
    with running(serving) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client, **options):
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    return client.chat.completions.create(**{"model": "m", "messages": messages, **WANTED, **options})


def checked(calls):
    """The names of the calls, each of which has arguments as its tool wants them."""
    for call in calls:
        given = json.loads(call.function.arguments)
        jsonschema.validate(given, WEATHER if call.function.name == "weather" else {"maxProperties": 0})
    return [call.function.name for call in calls]


def test_a_tool_has_to_be_called(client):
    done = ask(client, tool_choice="required", seed=1)
    assert {choice.finish_reason for choice in done.choices} == {"tool_calls"}
    assert {choice.message.content for choice in done.choices} == {None}
    names = [checked(choice.message.tool_calls) for choice in done.choices]
    streamed: dict = {0: [], 1: []}
    for chunk in ask(client, tool_choice="required", seed=1, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.tool_calls or []
    assert [checked(calls) for calls in streamed.values()] == names
    single = ask(client, tool_choice="required", parallel_tool_calls=False, seed=2)
    assert [len(checked(choice.message.tool_calls)) for choice in single.choices] == [1, 1]


def test_a_named_function_has_to_be_called(client):
    for name in ("weather", "stop"):
        done = ask(client, tool_choice={"type": "function", "function": {"name": name}})
        assert [checked(choice.message.tool_calls) for choice in done.choices] == [[name], [name]]


def test_a_format_together_with_tools(client):
    wanted = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": wanted}}
    kinds = set()
    for seed in range(4):
        for choice in ask(client, response_format=schema, seed=seed).choices:
            kinds.add(choice.finish_reason)
            if choice.message.tool_calls:
                checked(choice.message.tool_calls)
            else:
                jsonschema.validate(json.loads(choice.message.content), wanted)
    assert kinds == {"tool_calls", "stop"}
