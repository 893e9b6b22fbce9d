"""Answers that are held to calls of tools: whatever a model would rather say, the template's own reader takes them."""

from __future__ import annotations

import json
import random

import jsonschema
import openai
import pytest
import torch

from burnish.data.records import Conversation, ToolCall, Turn
from burnish.serve.arguments import without
from burnish.serve.bodies import ChatBody
from burnish.serve.errors import ApiError
from burnish.serve.grammar import DEAD, Machine, seq
from burnish.serve.grammar import text as spelled_out
from burnish.serve.held import check_choice, held_to, template_for
from burnish.serve.models import Served
from burnish.template import load_family, load_template, template_names
from burnish.template.call_form import call_form_of
from burnish.template.calls import as_written
from burnish.template.probe import abilities_of
from tests.conftest import family_tokenizer
from tests.serving import sampled

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "send.mail", "strict": True}},
]
NAMES = [name for name in template_names() if (can := abilities_of(load_family(name))).calls and can.tools]
MESSAGES = [{"role": "user", "content": "q"}]
QWEN = {"type": "function", "function": {"name": "weather"}}


def served_as(name):
    template = load_template(family_tokenizer(name), name)
    return Served("m", template, len(template.tokenizer))


def written(served, draw=None, seeds=12, **request):
    """What a model without any sense answers to a request, as text."""
    body = ChatBody(messages=MESSAGES, **request)
    check_choice(body)
    template = template_for(served, body)
    guide = held_to(served, template, body).shape.__self__
    members = call_form_of(template).members
    made = (
        sampled(guide, served.spelling, template.stop_ids, random.Random(seed), served.rows,
                mark=members.end if members else "")
        for seed in range(seeds)
    )  # fmt: skip
    return [text for text in made if text is not None]


@pytest.mark.parametrize("name", NAMES)
def test_every_form_is_what_the_template_writes(name):
    template = load_template(family_tokenizer(name), name)
    form = call_form_of(template)
    prompt = template.text(Conversation((Turn("user", "q"),), tuple(TOOLS)), generate=True)
    for arguments in ({"city": "Oslo"}, {}):
        call = ToolCall("weather", arguments, "probe0001")
        whole = template.text(
            Conversation((Turn("user", "q"), Turn("assistant", "", tool_calls=(call,))), tuple(TOOLS)), generate=False
        )
        spelled = as_written(template, Turn("user", "q"), (call,), TOOLS)
        assert whole.startswith(prompt + spelled)
        before, after = (part.replace("probe_tool", "weather") for part in form.one)
        assert (spelled.startswith(before), spelled.endswith(after)) == (True, True)
        inner = spelled[len(before) : len(spelled) - len(after)]
        members = form.members
        if members is None:
            assert json.loads(inner) == arguments
        elif arguments:
            value = "Oslo" if members.bare else '"Oslo"'
            assert inner == f"{members.begin}city{members.between}{value}{members.end}"
        else:
            assert inner == ""


@pytest.mark.parametrize(
    "name",
    ["qwen3", "llama3", "mistral", "mistral_small", "phi4_mini", "default", "glm4", "glm4_moe", "lfm2"],
)
def test_a_model_without_sense_calls_tools(name):
    name = name if name in NAMES else next(each for each in NAMES if each.startswith(name.split("_")[0]))
    served = served_as(name)
    tools = [tool["function"]["name"] for tool in TOOLS]
    counts = set()
    texts = written(served, tools=TOOLS, tool_choice="required")
    assert texts, "none came to an end"
    for text in texts:
        words, calls = served.call_format.read(text, TOOLS)
        assert words == ""
        counts.add(len(calls))
        for call in calls:
            assert call.name in tools
            jsonschema.validate(call.arguments, WEATHER if call.name == "weather" else {"maxProperties": 0})
    assert 1 in counts
    assert len(counts) > 1, "never two calls"
    for more in ({"tool_choice": QWEN}, {"tool_choice": "required", "parallel_tool_calls": False}):
        for text in written(served, tools=TOOLS, seeds=6, **more):
            calls = served.call_format.read(text, TOOLS)[1]
            assert len(calls) == 1
            assert calls[0].name in (["weather"] if "parallel_tool_calls" not in more else tools)


def test_tools_beside_a_format_are_calls_or_json():
    served, seen = served_as("qwen3"), set()
    person = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": person}}
    for text in written(served, tools=TOOLS, response_format=wanted, seeds=20):
        _, calls = served.call_format.read(text, TOOLS)
        seen.add(bool(calls))
        if not calls:
            jsonschema.validate(json.loads(text), person)
    assert seen == {True, False}
    for text in written(served, tools=TOOLS, response_format=wanted, tool_choice="none", seeds=5):
        jsonschema.validate(json.loads(text), person)


def test_control_tokens_are_written_as_such():
    """`<tool_call>` is one token where the tokenizer has it, and cannot be spelled."""
    from tokenizers import AddedToken

    tokenizer = family_tokenizer("qwen3")
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    served = Served("m", load_template(tokenizer, "qwen3"), len(tokenizer))
    body = ChatBody(messages=MESSAGES, tools=TOOLS, tool_choice="required")
    shape = held_to(served, template_for(served, body), body).shape
    first = torch.isfinite(shape([], torch.zeros(served.rows))).nonzero().flatten().tolist()
    assert first == [tokenizer.convert_tokens_to_ids("<tool_call>")]
    second = torch.isfinite(shape(first, torch.zeros(served.rows))).nonzero().flatten().tolist()
    assert tokenizer.decode(second) == "\n"


@pytest.mark.parametrize("name", ["glm4_moe", "lfm2"])
def test_arguments_that_are_no_object_of_json(name):
    """Each by its name: texts as they stand in GLM-4.5's form, whatever they hold, and JSON for all else."""
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "five": {"enum": ["5", "null"]},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "list": {"type": "array", "items": {"$ref": "#/$defs/one"}, "maxItems": 2},
            "one": {"$ref": "#/$defs/one"},
            "odd-name": {"type": "string"},
        },
        "required": ["text", "five", "maybe", "one"],
        "$defs": {"one": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}},
    }
    tools = [{"type": "function", "function": {"name": "t", "parameters": schema}}]
    served, seen = served_as(name), []
    for text in written(served, tools=tools, tool_choice="required", seeds=12):
        words, calls = served.call_format.read(text, tools)
        assert words == ""
        for call in calls:
            jsonschema.validate(call.arguments, schema)
            seen.append(call)
            again = as_written(template_for(served, held(tools)), Turn("user", "q"), (call,), tools)
            assert served.call_format.read(again, tools)[1] == (call,)
    assert len(seen) > 5
    assert {call.arguments["five"] for call in seen} == {"5", "null"}
    assert any("list" in call.arguments for call in seen)
    anything = [{"type": "function", "function": {"name": "t", "parameters": {"type": "object"}}}]
    template = template_for(served, held(anything))
    shape = held_to(served, template, held(anything)).shape
    for arguments in ({}, {"x_1": "hi"}, {"a": "b", "c": [1, {"d": None}]}):
        said = as_written(template, Turn("user", "q"), (ToolCall("t", arguments),), anything)
        tokens = [*template.tokenizer(said, add_special_tokens=False)["input_ids"], min(template.stop_ids)]
        for place, token in enumerate(tokens):
            assert torch.isfinite(shape(tokens[:place], torch.zeros(served.rows))[token])


def held(tools):
    return ChatBody(messages=MESSAGES, tools=tools, tool_choice="required")


def test_an_argument_that_could_not_be_read_back():
    served = served_as("lfm2")
    schema = {"type": "object", "properties": {"odd-name": {"type": "string"}}, "required": ["odd-name"]}
    with pytest.raises(ApiError, match="cannot write an argument named 'odd-name'") as refused:
        written(served, tools=[{"type": "function", "function": {"name": "t", "parameters": schema}}],
                tool_choice="required")  # fmt: skip
    assert refused.value.param == "tools[0].function.parameters"


def test_a_text_never_holds_the_mark_that_ends_it():
    machine = Machine(seq(without("</a>"), spelled_out("</a>")))
    for said in ("", "a < b", "</", "</</a", "<<", "</b></a", "世界\n\t<"):
        assert machine.ends(machine.walk(machine.start, f"{said}</a>".encode())), said
    for said in ("</a>", "x</a>y", "<</a></"):
        state = machine.walk(machine.start, f"{said}</a>".encode())
        assert state == DEAD
    assert machine.walk(machine.start, b"\xff") == DEAD


def test_a_template_that_cannot_be_held_is_told(monkeypatch):
    served = served_as("qwen3")
    monkeypatch.setattr("burnish.serve.models.call_form_of", lambda template: None)
    for more, param in (
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": QWEN}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ):
        with pytest.raises(ApiError, match="not supported with the chat template of this model") as refused:
            written(served, tools=TOOLS, **more)
        assert refused.value.param == param


def test_schemas_that_cannot_be_followed():
    served = served_as("qwen3")
    odd = {
        "type": "object",
        "properties": {
            "a": {"type": "boolean", "pattern": "x"},
            "b": {"oneOf": [{"type": "null"}], "anyOf": []},
            "c": {"type": "integer", "minimum": 5},
        },
        "required": ["a", "c"],
    }

    def tool(**more):
        return [{"type": "function", "function": {"name": "weather", "parameters": odd, **more}}]

    for text in written(served, tools=tool(), tool_choice="required", parallel_tool_calls=False, seeds=8):
        [call] = served.call_format.read(text, tool())[1]
        assert type(call.arguments["a"]) is bool, "what can be followed is followed"
        assert type(call.arguments["c"]) is int
    lost = {"parameters": {"type": "object", "required": ["a"], "additionalProperties": False}}
    for text in written(served, tools=tool(**lost), tool_choice="required", parallel_tool_calls=False, seeds=4):
        [call] = served.call_format.read(text, tool())[1]
        assert isinstance(call.arguments, dict)
    with pytest.raises(ApiError, match="'pattern' is not supported") as refused:
        written(served, tools=tool(strict=True), tool_choice="required")
    assert refused.value.param == "tools[0].function.parameters"
    with pytest.raises(ApiError, match="have to be of type object"):
        written(served, tools=tool(strict=True, parameters={"type": "string"}), tool_choice="required")


def test_the_prompt_has_no_thought(client, engine, template):
    client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS[:1], tool_choice="required")
    wanted = template.changed(enable_thinking=False)
    assert list(engine.requests[-1].prompt) == wanted.prompt_ids(Conversation((Turn("user", "q"),), (TOOLS[0],)))
    assert engine.requests[-1].shape_logits is not None


@pytest.mark.parametrize("stream", [False, True])
def test_at_most_one_call_where_that_is_asked(client, template, stream):
    calls = tuple(ToolCall("weather", {"city": city}) for city in ("Oslo", "Rome"))
    text = as_written(template, Turn("user", "q"), calls, TOOLS).split("</think>")[-1].strip()
    done = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": f"say:{text}"}], tools=TOOLS[:1], parallel_tool_calls=False,
        stream=stream,
    )  # fmt: skip
    if stream:
        chunks = [chunk.choices[0] for chunk in done]
        made, finish = [each for chunk in chunks for each in chunk.delta.tool_calls or ()], chunks[-1].finish_reason
    else:
        made, finish = done.choices[0].message.tool_calls, done.choices[0].finish_reason
    assert [json.loads(each.function.arguments) for each in made] == [{"city": "Oslo"}]
    assert finish == "tool_calls"


def test_a_template_without_tools_says_so():
    from tests.serving import running
    from tests.unit.serve.conftest import make_serving

    plain = load_template(family_tokenizer(None))
    with (
        running(make_serving(plain)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="no place for tools") as refused,
    ):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS[:1], tool_choice="required")
    assert refused.value.body["param"] == "tools"


def test_an_engine_that_cannot_hold_says_so(template):
    from dataclasses import replace

    from tests.serving import running
    from tests.unit.serve.conftest import make_serving

    serving = make_serving(template)
    serving.backend = replace(serving.backend, shapes_logits=False)
    with (
        running(serving) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="tool_choice is not supported with the engine scripted"),
    ):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS[:1], tool_choice="required")
