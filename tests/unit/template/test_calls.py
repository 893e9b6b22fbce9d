"""Tool calls come back from what the model wrote, in the format of the template itself."""

from __future__ import annotations

import pytest

from burnish.data.records import ToolCall, Turn
from burnish.template import load_family, load_template, template_names
from burnish.template.calls import FORMATS, as_written, format_of
from burnish.template.probe import abilities_of
from burnish.template.standin import stand_in

ASKED = Turn("user", "What is it?")
TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "count": {"type": "integer"},
                    "deep": {"type": "object"},
                    "yes": {"type": "boolean"},
                },
            },
        },
    }
    for name in ("look_up", "send.mail")
)
ODD = {"text": 'a "quoted" }] line\nand ünïcode </x>', "count": 5, "deep": {"list": [1, 2.5, None]}, "yes": True}
NOT_READ = {"gpt_oss"}  # channels, one call a turn: has its own way, which is not read back
NAMES = [name for name in template_names() if (can := abilities_of(load_family(name))).calls and can.tools]


def _template(name):
    family = load_family(name)
    return load_template(stand_in(family), family.name)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_template_reads_its_own_calls_back(name):
    template = _template(name)
    found = format_of(template)
    if name in NOT_READ:
        assert found is None
        return
    assert found is not None
    for calls in (
        (ToolCall("look_up", ODD, "abcdefgh1"),),
        (ToolCall("look_up", {"text": "5"}, "abcdefgh1"), ToolCall("send.mail", {}, "abcdefgh2")),
    ):
        words, read = found.read(as_written(template, ASKED, calls, TOOLS), TOOLS)
        assert [(one.name, one.arguments) for one in read] == [(one.name, one.arguments) for one in calls]
        assert not words.split("</think>")[-1].strip()


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
@pytest.mark.parametrize(
    "text",
    ["", "plain words", '{"name": "other", "parameters": {}}', "<tool_call>\n{broken", "[TOOL_CALLS] [",
     "Action: x\nno", "<|tool_call_start|>[f(", "look_up\nnot json", "[" * 5000, '<tool_call>[{"name": 3}]</tool_call>',
     "<|tool_call_start|>[f(x=__import__('os').system('true'))]<|tool_call_end|>"],
)  # fmt: skip
def test_what_is_no_call_stays_words(known, text):
    assert known.read(text, TOOLS) == (text, ())


def test_words_before_a_call_are_kept():
    [qwen] = [known for known in FORMATS if known.name == "qwen"]
    text = 'I look.\n<tool_call>\n{"name": "look_up", "arguments": {"text": "x"}}\n</tool_call>'
    assert qwen.read(text, TOOLS) == ("I look.", (ToolCall("look_up", {"text": "x"}),))
    assert qwen.read(text.removesuffix("</tool_call>"), TOOLS)[1], "the end mark may be what stopped the answer"


def test_python_literals_are_read_and_never_run():
    [lfm2] = [known for known in FORMATS if known.name == "lfm2"]
    text = "<|tool_call_start|>[look_up(text='it\\'s', yes=True, deep={'a': None})]<|tool_call_end|>"
    assert lfm2.read(text, TOOLS)[1] == (ToolCall("look_up", {"text": "it's", "yes": True, "deep": {"a": None}}),)


def test_json_that_names_no_tool_is_an_answer():
    [llama3] = [known for known in FORMATS if known.name == "llama3"]
    assert llama3.read('{"name": "Ada", "parameters": {}}', TOOLS)[1] == ()
    assert llama3.read('{"name": "look_up", "parameters": {}}', TOOLS)[1] == (ToolCall("look_up", {}),)


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "integer"}, "5", 5),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "number"]}, "5", 5),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "true", "true"),
        ({"anyOf": [{"type": "string"}, {}]}, "true", True),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, "x"]}, "1", 1),
        ({"const": "null"}, "null", "null"),
        ({}, "[1]", [1]),
        ({}, "[1", "[1"),
        (True, "1", 1),
    ],
    ids=str,
)
def test_text_that_spells_json_is_what_the_schema_lets_it_be(schema, written, value):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}]
    text = f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{written}</arg_value>\n</tool_call>"
    [known] = [each for each in FORMATS if each.name == "glm4_moe"]
    assert known.read(text, tools)[1] == (ToolCall("f", {"a": value}),)
