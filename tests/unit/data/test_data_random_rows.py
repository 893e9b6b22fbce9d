"""Whatever a row holds, a converter gives a record that can be trained on, or a BadRow."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.converters import CONVERTERS
from burnish.data.detect import guess
from burnish.data.records import Conversation, Record
from burnish.data.registry import parse_entry
from burnish.data.rows import BadRow
from burnish.data.spec import DatasetSpec
from burnish.errors import DataError

ROW_KEYS = ["instruction", "input", "output", "system", "history", "tools", "messages", "conversations"]
ROW_KEYS += ["prompt", "completion"]
MESSAGE_KEYS = ["role", "content", "from", "value", "tool_calls", "function_call", "weight", "train"]
INNER_KEYS = ["function", "name", "arguments", "type", "text", "reasoning_content"]
KEYS = ROW_KEYS + MESSAGE_KEYS + INNER_KEYS
ROLES = ["user", "assistant", "tool", "system", "human", "gpt", "function_call", "observation"]
ODD_TEXTS = ["", " ", "{}", "[]", "<think>x</think>{", "\ud800", "[" * 100_000, "9" * 5000]
TEXTS = st.sampled_from(["hi", "text", '{"name": "a", "arguments": {}}', *ROLES, *ODD_TEXTS])
LEAVES = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXTS | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(MESSAGE_KEYS, TEXTS | VALUES))
    | st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(ROLES[:4]), TEXTS)
    | st.builds(lambda role, text: {"from": role, "value": text}, st.sampled_from(ROLES[3:]), TEXTS),
    max_size=4,
)
LOOSE_ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(ROW_KEYS, TEXTS | MESSAGES | VALUES))

TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": [{"type": "text", "text": "a"}], "weight": 1, "reasoning_content": "r"},
]
SHAREGPT = ["system", "human", "function_call", "observation", "gpt"]
WHOLE_ROW = {
    "instruction": "q",
    "input": "i",
    "output": "a",
    "system": "s",
    "history": [["q", "a"]],
    "tools": [{"name": "f", "parameters": {}}],
    "messages": TALK,
    "conversations": [
        {"from": role, "value": '{"name": "f", "arguments": {"x": 1}}' if role == "function_call" else "t"}
        for role in SHAREGPT
    ],
    "prompt": TALK[:2],
    "completion": TALK[2:],
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a nested value with each of its keys or positions."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [found for key in keys for found in places(value[key])]


@st.composite
def damaged_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A good row of every format at once, with up to three places overwritten, removed or repeated."""
    row = copy.deepcopy(WHOLE_ROW)
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from(places(row)))
        what = draw(st.sampled_from(["overwrite", "remove", "repeat"]))
        if what == "overwrite":
            container[key] = draw(TEXTS | VALUES)
        elif what == "repeat" and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        else:
            del container[key]
        row = row or copy.deepcopy(WHOLE_ROW)
    return row


ROWS = damaged_rows() | LOOSE_ROWS

ENTRIES: dict[str, dict[str, Any]] = {
    "alpaca": {
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "response": "output",
            "system": "system",
            "history": "history",
            "tools": "tools",
        }
    },
    "sharegpt": {"columns": {"messages": "conversations", "system": "system", "tools": "tools"}},
    "openai": {"columns": {"messages": "messages", "system": "system", "tools": "tools"}},
    "prompt_completion": {"columns": {"prompt": "prompt", "response": "completion", "tools": "tools"}},
}


@pytest.mark.parametrize("formatting", ENTRIES)
@settings(max_examples=150, deadline=None)
@given(row=ROWS)
def test_a_record_or_a_bad_row(formatting: str, row: dict[str, Any]) -> None:
    entry = {"file_name": "x.json", "formatting": formatting, **ENTRIES[formatting]}
    spec = parse_entry("x", entry, Path("dataset_info.json"))
    try:
        record = CONVERTERS.get(f"{formatting}/conversation")(row, spec, Counter())
    except BadRow as bad:
        message = str(bad)
    else:
        check_trainable(record)
        return
    assert message.encode("utf-8")
    assert len(message) < 300


def check_trainable(record: Record) -> None:
    assert isinstance(record, Conversation)
    turns = [turn for turn in record.turns if turn.role != "system"]
    assert turns[0].role == "user"
    assert turns[-1].role == "assistant"
    assert any(turn.role == "assistant" and turn.weight > 0 for turn in turns)
    for turn in record.turns:
        assert turn.role == "tool" or turn.content.strip() or turn.tool_calls
        assert turn.content.encode("utf-8") is not None


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(VALUES | ROWS, max_size=3))
def test_guessing_never_fails(rows: list[Any]) -> None:
    try:
        found = guess(rows, DatasetSpec("x", "file", "x", Path("x"), formatting=None))
    except DataError:
        return
    assert found is None or found[0].formatting is not None
