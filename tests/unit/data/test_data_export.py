"""Records to rows and back: the same record, or an error that says what the format cannot hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.export import dataset_entry, to_alpaca, to_openai, to_sharegpt
from burnish.data.load import load_samples
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Record, ToolCall, Turn
from burnish.errors import DataError

WRITERS: dict[str, Callable[[Record], dict[str, Any]]] = {
    "openai": to_openai,
    "alpaca": to_alpaca,
    "sharegpt": to_sharegpt,
}
STAGES = {Conversation: "sft", Document: "pt", Preference: "dpo", Feedback: "kto", Prompt: "grpo"}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
NAMES = st.sampled_from(["rain", "wind"])
ARGUMENTS = st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9) | st.none() | st.lists(TEXTS, max_size=2), max_size=2)
IDS = st.none() | st.sampled_from(["a", "b"])
CALLS = st.builds(ToolCall, NAMES, ARGUMENTS, IDS)
PLAIN = st.builds(lambda text: Turn("assistant", text), TEXTS)
RICH = st.builds(
    lambda text, thought, weight: Turn("assistant", text, thought, weight=weight),
    TEXTS,
    st.none() | TEXTS,
    st.sampled_from([1.0, 0.5]),
)
USER = st.builds(lambda text: Turn("user", text), TEXTS)
TOOL_STEP = st.builds(
    lambda text, thought, calls, results: (Turn("assistant", text, thought, tuple(calls)), *results),
    st.just("") | TEXTS,
    st.none() | TEXTS,
    st.lists(CALLS, min_size=1, max_size=2),
    st.lists(st.builds(lambda text, name, id: Turn("tool", text, name=name, call_id=id), TEXTS, st.none() | NAMES, IDS))
    .filter(bool)
    .map(tuple),
)


@st.composite
def conversations(draw: st.DrawFn, answered: bool = True) -> Conversation:
    """Any turns in an order that can be trained on."""
    rich = draw(st.booleans())
    turns: list[Turn] = [Turn("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [draw(USER), *(draw(TOOL_STEP) if rich and draw(st.booleans()) else ()), draw(RICH if rich else PLAIN)]
    turns.append(draw(USER))
    if rich and draw(st.booleans()):
        turns += draw(TOOL_STEP)
    if answered:
        turns.append(draw(RICH if rich else PLAIN))
    tools = draw(st.lists(st.builds(lambda name, given: {"name": name, **given}, NAMES, ARGUMENTS), max_size=1))
    return Conversation(tuple(turns), tuple(tools) if rich else ())


ANSWERS = st.lists(PLAIN, min_size=1, max_size=1).map(tuple) | st.builds(
    lambda step, end: (*step, end), TOOL_STEP, RICH
)
RECORDS = st.one_of(
    conversations(),
    st.builds(Document, TEXTS),
    st.builds(Feedback, conversations(), st.booleans()),
    st.builds(Preference, conversations(answered=False), ANSWERS, ANSWERS),
    st.builds(
        Prompt,
        conversations(answered=False),
        st.dictionaries(st.sampled_from(["answer", "level"]), TEXTS | st.integers(-9, 9) | st.none(), max_size=2),
    ),
)


def read_back(formatting: str, record: Record, row: dict[str, Any]) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        entry = {"file_name": "a.jsonl", **dataset_entry(formatting, record, row)}
        (Path(folder) / "dataset_info.json").write_text(json.dumps({"a": entry}), encoding="utf-8")
        (Path(folder) / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        return load_samples(["a"], Path(folder), stage=STAGES[type(record)]).samples[0].record


@settings(max_examples=100, deadline=None)
@given(record=RECORDS)
def test_openai_rows_hold_every_record(record: Record) -> None:
    assert read_back("openai", record, to_openai(record)) == record


@pytest.mark.parametrize("formatting", ["alpaca", "sharegpt"])
@settings(max_examples=100, deadline=None)
@given(record=RECORDS)
def test_other_rows_hold_the_record_or_say_why_not(formatting: str, record: Record) -> None:
    try:
        row = WRITERS[formatting](record)
    except DataError as error:
        said = error
    else:
        assert read_back(formatting, record, row) == record
        return
    assert said.what.startswith(f"{formatting} rows cannot hold ")
    assert said.fix == "convert to openai messages, which hold everything"


ASK, ANSWER = Turn("user", "Rain?"), Turn("assistant", "Yes.")
CALL = Turn("assistant", "", "Look.", (ToolCall("rain", {"city": "奥斯陆"}, "1"),))
RESULT = Turn("tool", "3 mm", name="rain", call_id="1")
TOOLS = ({"name": "rain"},)


def test_openai_rows() -> None:
    assert to_openai(Conversation((ASK, CALL, RESULT, ANSWER), TOOLS)) == {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "Look.",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "rain", "arguments": '{"city": "奥斯陆"}'}}
                ],
            },
            {"role": "tool", "content": "3 mm", "name": "rain", "tool_call_id": "1"},
            {"role": "assistant", "content": "Yes."},
        ],
        "tools": [{"name": "rain"}],
    }
    with pytest.raises(DataError) as caught:
        to_openai(Prompt(Conversation((ASK,)), {"tools": 1}))
    assert caught.value.what == "a reference field is called 'tools'"


def test_alpaca_rows() -> None:
    record = Conversation((Turn("system", "s"), ASK, ANSWER, Turn("user", "Wind?"), Turn("assistant", "No.")))
    assert to_alpaca(record) == {
        "instruction": "Wind?",
        "input": "",
        "output": "No.",
        "system": "s",
        "history": [["Rain?", "Yes."]],
    }
    assert to_alpaca(Preference(Conversation((ASK,)), (ANSWER,), (Turn("assistant", "No."),))) == {
        "instruction": "Rain?",
        "input": "",
        "chosen": "Yes.",
        "rejected": "No.",
    }
    wide = Preference(Conversation((ASK,)), (ANSWER,), (Turn("assistant", "No."),), 0.5)
    for row in (to_alpaca(wide), to_sharegpt(wide), to_openai(wide)):
        assert row["margin"] == 0.5
        assert dataset_entry("alpaca", wide, row)["columns"]["margin"] == "margin"


def test_sharegpt_rows() -> None:
    call = Turn("assistant", "", "Look.", (ToolCall("rain", {}),))
    assert to_sharegpt(Feedback(Conversation((ASK, call, Turn("tool", "3 mm"), ANSWER), TOOLS), True)) == {
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": '<think>\nLook.\n</think>\n{"name": "rain", "arguments": {}}'},
            {"from": "observation", "value": "3 mm"},
            {"from": "gpt", "value": "Yes."},
        ],
        "tools": '[{"name": "rain"}]',
        "label": True,
    }


@pytest.mark.parametrize(
    ("formatting", "record", "what"),
    [
        ("alpaca", Conversation((ASK, ANSWER), TOOLS), "tools"),
        ("alpaca", Conversation((ASK, CALL, RESULT, ANSWER)), "turns of tools"),
        ("alpaca", Conversation((ASK, CALL)), "calls of tools"),
        ("alpaca", Conversation((ASK, Turn("assistant", "a", "thought"))), "reasoning"),
        ("alpaca", Conversation((ASK, Turn("assistant", "a", weight=0.5))), "weights"),
        ("alpaca", Document("x"), "plain text"),
        ("alpaca", Prompt(Conversation((ASK,))), "a prompt without an answer"),
        ("sharegpt", Conversation((ASK, CALL, RESULT, ANSWER)), "ids of calls or names of tools"),
        ("sharegpt", Conversation((ASK, Turn("assistant", "a", "thought"))), "reasoning"),
        ("sharegpt", Conversation((ASK, Turn("assistant", "a", None, (ToolCall("f", {}),)))), "text beside a call"),
        ("sharegpt", Preference(Conversation((ASK,)), (CALL, RESULT, ANSWER), (ANSWER,)), "an answer of several turns"),
        ("sharegpt", Document("x"), "plain text"),
    ],
)
def test_what_a_format_cannot_hold(formatting: str, record: Record, what: str) -> None:
    with pytest.raises(DataError) as caught:
        WRITERS[formatting](record)
    assert caught.value.what == f"{formatting} rows cannot hold {what}"
