"""Whatever a row holds, a converter gives a record that can be trained on, or a BadRow."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.data.checks import STAGE_RECORD
from burnish.data.converters import CONVERTERS
from burnish.data.detect import guess
from burnish.data.load import load_samples
from burnish.data.readers import READERS, read_rows
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Record, Turn
from burnish.data.registry import parse_entry
from burnish.data.rows import BadRow
from burnish.data.spec import DatasetSpec
from burnish.errors import DataError

ROW_KEYS = ["instruction", "input", "output", "system", "history", "tools", "messages", "conversations"]
ROW_KEYS += ["prompt", "completion", "chosen", "rejected", "label", "text"]
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
    "chosen": TALK,
    "rejected": [*TALK[:4], {"role": "assistant", "content": "b"}],
    "label": True,
    "text": "t",
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


def entry_for(formatting: str, kind: str, pair: str) -> dict[str, Any]:
    entry = {"file_name": "x.json", "formatting": formatting, "columns": dict(ENTRIES[formatting]["columns"])}
    if kind == "preference":
        entry["ranking"] = True
        entry["columns"] |= {"chosen": pair, "rejected": "rejected"}
        if pair == "chosen" and formatting in ("sharegpt", "openai"):
            del entry["columns"]["messages"]  # two whole conversations
    if kind == "feedback":
        entry["columns"]["kto_tag"] = "label"
    return entry


@pytest.mark.parametrize("name", CONVERTERS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=ROWS, pair=st.sampled_from(["chosen", "text"]))
def test_a_record_or_a_bad_row(name: str, row: dict[str, Any], pair: str) -> None:
    formatting, kind = name.split("/")
    spec = parse_entry("x", entry_for(formatting, kind, pair), Path("dataset_info.json"))
    try:
        record = CONVERTERS.get(name)(row, spec, Counter())
    except BadRow as bad:
        message = str(bad)
    else:
        check_record(record)
        return
    assert message.encode("utf-8")
    assert len(message) < 300


@pytest.mark.parametrize("name", CONVERTERS)
def test_the_whole_row_becomes_every_kind_of_record(name: str) -> None:
    """Else the random rows above would only be bad ones."""
    formatting, kind = name.split("/")
    pair = "chosen" if formatting in ("openai", "prompt_completion") else "text"
    row = copy.deepcopy(WHOLE_ROW)
    if pair == "text":
        row["rejected"] = "r"
        row["conversations"] = row["conversations"][:2] if kind == "preference" else row["conversations"]
    check_record(CONVERTERS.get(name)(row, parse_entry("x", entry_for(formatting, kind, pair), Path("x")), Counter()))


def check_record(record: Record) -> None:
    if isinstance(record, Document):
        assert record.text.strip()
    elif isinstance(record, Preference):
        check_turns(record.prompt.turns)
        assert record.prompt.turns[-1].role in ("user", "tool")
        for answer in (record.chosen, record.rejected):
            assert answer[0].role == answer[-1].role == "assistant"
            check_turns((*record.prompt.turns, *answer))
    elif isinstance(record, Feedback):
        assert isinstance(record.desirable, bool)
        check_turns(record.conversation.turns)
        assert record.conversation.turns[-1].role == "assistant"
    elif isinstance(record, Prompt):
        check_turns(record.prompt.turns)
        assert record.prompt.turns[-1].role in ("user", "tool")
    else:
        assert isinstance(record, Conversation)
        check_turns(record.turns)
        assert record.turns[-1].role == "assistant"
        assert any(turn.role == "assistant" and turn.weight > 0 for turn in record.turns)


def check_turns(turns: tuple[Turn, ...]) -> None:
    spoken = [turn for turn in turns if turn.role != "system"]
    assert spoken[0].role == "user"
    for before, after in itertools.pairwise(spoken):
        assert (before.role, after.role) not in (("user", "user"), ("assistant", "assistant"), ("user", "tool"))
    for turn in turns:
        assert turn.role == "tool" or turn.content.strip() or turn.tool_calls
        assert turn.content.encode("utf-8") is not None


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES | ROWS, max_size=3), record=st.sampled_from([None, *STAGE_RECORD.values()]))
def test_guessing_never_fails(rows: list[Any], record: str | None) -> None:
    found = guess(rows, DatasetSpec("x", "file", "x", Path("x"), formatting=None), record)
    assert found is None or found[0].formatting is not None


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES | ROWS, min_size=1, max_size=3), stage=st.sampled_from([*STAGE_RECORD]))
def test_loading_gives_samples_or_says_what_is_wrong(rows: list[Any], stage: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        try:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        except ValueError:  # a number too long to be written
            return
        try:
            loaded = load_samples([str(path)], Path(folder), stage=stage)
        except DataError as error:
            said = (error.what, error.at)
        else:
            assert len(loaded.samples) + sum(loaded.dropped.values()) == len(rows)
            return
        assert all(said)


TEXT_BYTES = st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace"))
JSON_BYTES = st.builds(
    lambda value, cut: json.dumps(value).encode()[:cut],
    st.lists(st.text(max_size=3) | st.floats(), max_size=4),
    st.integers(0, 60),
)


@pytest.mark.parametrize("ending", [f"{kind}{packed}" for kind in READERS for packed in ("", ".gz", ".zst")])
@settings(max_examples=15, deadline=None)
@given(data=TEXT_BYTES | JSON_BYTES)
def test_a_file_of_anything_is_rows_or_an_error(ending: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{ending}"
        path.write_bytes(data)
        try:
            rows = list(read_rows(path, []))
        except DataError as error:
            at = error.at
        else:
            assert rows
            return
        assert at is not None
        assert str(path) in at


@settings(max_examples=60, deadline=None)
@given(
    value=st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
)
def test_entries_of_anything_are_a_spec_or_an_error(value: Any) -> None:
    for entry in (value, {"file_name": "a.json", "columns": value}, {"hf_hub_url": "a", "tags": value}):
        with contextlib.suppress(DataError):
            parse_entry("x", entry, Path("dataset_info.json"))
