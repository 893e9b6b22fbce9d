"""Rows to records, one function for each format.

A converter takes `(row, spec, repairs)`: it returns the record, counts in `repairs` what it mended, and
raises BadRow with the reason where it cannot. It never raises anything else, whatever the row holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from burnish.data.messages import JOINED_USER_TURNS, Placed, arrange, read_messages, read_openai_messages
from burnish.data.records import Conversation, Record, Turn
from burnish.data.rows import BadRow, Row, as_text, column, kind_of, optional_text
from burnish.data.spec import DatasetSpec
from burnish.data.tools import read_tools
from burnish.registry import LazyTable

Converter = Callable[[Row, DatasetSpec, Counter[str]], Record]

CONVERTERS = LazyTable("data format")
"""`formatting/kind of record` → converter."""
CONVERTERS.add("alpaca/conversation", "burnish.data.converters:alpaca")
CONVERTERS.add("sharegpt/conversation", "burnish.data.converters:sharegpt")
CONVERTERS.add("openai/conversation", "burnish.data.converters:openai")
CONVERTERS.add("prompt_completion/conversation", "burnish.data.converters:prompt_completion")


def alpaca(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Conversation:
    """`instruction`, `input`, `output` and perhaps `system`, `history` (pairs) and `tools`.

    The user turn is prompt and query joined with one newline; the answers of the history are trained on too.
    """
    columns = spec.columns
    prompt_key, answer_key = columns.prompt or "prompt", columns.response or "response"
    asked = as_text(column(row, columns.prompt), prompt_key)
    more = optional_text(row, columns.query)
    answer = as_text(column(row, columns.response), answer_key)
    placed = [(Turn("system", optional_text(row, columns.system)), columns.system or "system")]
    placed += _history(row, columns.history)
    placed.append((Turn("user", "\n".join(part for part in (asked, more) if part)), prompt_key))
    placed.append((Turn("assistant", answer), answer_key))
    return _conversation(row, spec, placed, prompt_key, repairs)


def _history(row: Row, key: str | None) -> list[Placed]:
    value = row.get(key) if key is not None else None
    if key is None or value is None or value == "":
        return []
    if not isinstance(value, list):
        raise BadRow("broken history", key, kind_of(value))
    placed: list[Placed] = []
    for index, pair in enumerate(value):
        place = f"{key}[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow("broken history", place, "not a pair of question and answer")
        placed.append((Turn("user", as_text(pair[0], f"{place}[0]")), f"{place}[0]"))
        placed.append((Turn("assistant", as_text(pair[1], f"{place}[1]")), f"{place}[1]"))
    return placed


def sharegpt(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Conversation:
    """A list of messages whose roles are called as the tags say; a role that no tag names is a bad row."""
    return _chat(row, spec, repairs, standard=False)


def openai(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Conversation:
    """A list of `role` and `content` messages: system or developer, user, assistant (`tool_calls`), tool."""
    return _chat(row, spec, repairs, standard=True)


def _chat(row: Row, spec: DatasetSpec, repairs: Counter[str], *, standard: bool) -> Conversation:
    key = spec.columns.messages or "messages"
    placed = read_messages(column(row, spec.columns.messages), key, spec.tags, standard=standard)
    return _conversation(row, spec, _with_system(row, spec, placed), key, repairs)


def prompt_completion(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Conversation:
    """Two texts, or two lists of openai messages of which only the second, the completion, is trained."""
    columns = spec.columns
    prompt_key, answer_key = columns.prompt or "prompt", columns.response or "completion"
    asked, answer = column(row, columns.prompt), column(row, columns.response)
    if isinstance(asked, list):
        before = read_openai_messages(asked, prompt_key)
        before = [(replace(turn, weight=0.0) if turn.role == "assistant" else turn, key) for turn, key in before]
    else:
        before = [(Turn("user", as_text(asked, prompt_key)), prompt_key)]
    if isinstance(answer, list):
        after = read_openai_messages(answer, answer_key)
    else:
        after = [(Turn("assistant", as_text(answer, answer_key)), answer_key)]
    return _conversation(row, spec, _with_system(row, spec, before + after), prompt_key, repairs)


def _with_system(row: Row, spec: DatasetSpec, placed: list[Placed]) -> list[Placed]:
    """Put the system column in front; a system message at the start of the list goes before it."""
    if spec.columns.system is None or (placed and placed[0][0].role == "system"):
        return placed
    system = Turn("system", optional_text(row, spec.columns.system))
    return [(system, spec.columns.system), *placed]


def _conversation(row: Row, spec: DatasetSpec, placed: list[Placed], key: str, repairs: Counter[str]) -> Conversation:
    turns, joined = arrange(placed, key)
    tools_key = spec.columns.tools
    tools = read_tools(row.get(tools_key), tools_key) if tools_key is not None else ()
    if joined:
        repairs[JOINED_USER_TURNS] += 1
    return Conversation(turns, tools)
