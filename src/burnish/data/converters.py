"""Rows to records, one function for each kind of record; here the table, and the conversations.

A converter takes `(row, spec, repairs)`: it returns the record, counts in `repairs` what it mended, and
raises BadRow with the reason where it cannot. It never raises anything else, whatever the row holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from burnish.data.messages import (
    JOINED_USER_TURNS,
    End,
    Placed,
    arrange,
    as_weight,
    read_message,
    read_messages,
    read_openai_messages,
)
from burnish.data.records import Conversation, Document, Feedback, Record, Turn
from burnish.data.rows import BadRow, Row, as_text, column, from_json_text, kind_of, optional_text, shown
from burnish.data.spec import CHAT_FORMATTINGS, OPENAI_TAGS, DatasetSpec
from burnish.data.tools import read_tools
from burnish.registry import LazyTable

Converter = Callable[[Row, DatasetSpec, Counter[str]], Record]

CONVERTERS = LazyTable("data format")
"""`formatting/kind of record` → converter."""
CONVERTERS.add("alpaca/conversation", "burnish.data.converters:answered")
CONVERTERS.add("alpaca/document", "burnish.data.converters:document")
CONVERTERS.add("alpaca/preference", "burnish.data.preferences:preference")
CONVERTERS.add("alpaca/feedback", "burnish.data.converters:feedback")
CONVERTERS.add("alpaca/prompt", "burnish.data.prompts:prompt")
CONVERTERS.add("sharegpt/conversation", "burnish.data.converters:answered")
CONVERTERS.add("sharegpt/preference", "burnish.data.preferences:preference")
CONVERTERS.add("sharegpt/feedback", "burnish.data.converters:feedback")
CONVERTERS.add("sharegpt/prompt", "burnish.data.prompts:prompt")
CONVERTERS.add("openai/conversation", "burnish.data.converters:answered")
CONVERTERS.add("openai/preference", "burnish.data.preferences:preference")
CONVERTERS.add("openai/feedback", "burnish.data.converters:feedback")
CONVERTERS.add("openai/prompt", "burnish.data.prompts:prompt")
CONVERTERS.add("prompt_completion/conversation", "burnish.data.converters:answered")
CONVERTERS.add("prompt_completion/preference", "burnish.data.preferences:preference")
CONVERTERS.add("prompt_completion/feedback", "burnish.data.converters:feedback")
CONVERTERS.add("prompt_completion/prompt", "burnish.data.prompts:prompt")


def answered(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Conversation:
    """A conversation that ends with an answer.

    In alpaca and prompt_completion rows the answer stands in a column of its own. In sharegpt rows a role that no tag
    names is a bad row; openai rows may also use the standard names.
    """
    turns = conversation_turns(row, spec, repairs, "trained")
    key = spec.columns.weight
    if key is not None and row.get(key) is not None:
        turns = _weighted(turns, as_weight(row[key], key), key)
    return Conversation(turns, tools_of(row, spec))


def _weighted(turns: tuple[Turn, ...], weight: float, key: str) -> tuple[Turn, ...]:
    """The weight of a row scales that of each of its answers."""
    if not weight:
        raise BadRow("no answer is trained", key, "the weight is 0")
    return tuple(replace(turn, weight=turn.weight * weight) if turn.role == "assistant" else turn for turn in turns)


def feedback(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Feedback:
    """A conversation and a label that says whether its last answer was useful."""
    turns = conversation_turns(row, spec, repairs, "answer")
    key = spec.columns.kto_tag
    return Feedback(Conversation(turns, tools_of(row, spec)), read_label(column(row, key), key or "label"))


def document(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Document:
    """The text of the prompt column; a query column follows after a newline."""
    text = asked_text(row, spec)
    if not text.strip():
        raise BadRow("empty text", spec.columns.prompt)
    return Document(text)


def read_label(value: object, key: str) -> bool:
    """A label as tables and JSON write it: true or false, 1 or 0, or these as text."""
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower(), value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise BadRow("label is not true or false", key, shown(value))


def conversation_turns(row: Row, spec: DatasetSpec, repairs: Counter[str], end: End) -> tuple[Turn, ...]:
    """All turns of a row in order, the answer included."""
    placed, key = asked(row, spec)
    columns = spec.columns
    if spec.formatting not in CHAT_FORMATTINGS and columns.prompt is not None:
        answer_key = columns.response or "response"
        answer = column(row, columns.response)
        if spec.formatting == "alpaca" or not isinstance(answer, list):
            placed = [*placed, (Turn("assistant", as_text(answer, answer_key)), answer_key)]
        else:
            placed = [*placed, *read_openai_messages(answer, answer_key)]
    return counted(placed, key, repairs, end)


def counted(placed: list[Placed], key: str, repairs: Counter[str], end: End) -> tuple[Turn, ...]:
    """`arrange`, with the turns that it joined counted as one repair of the row."""
    turns, joined = arrange(placed, key, end)
    if joined:
        repairs[JOINED_USER_TURNS] += 1
    return turns


def asked(row: Row, spec: DatasetSpec) -> tuple[list[Placed], str]:
    """The turns that a row begins with, and the column they are from.

    Of alpaca and prompt_completion rows these are all but the answer; of sharegpt and openai rows all messages.
    """
    columns = spec.columns
    if spec.formatting in CHAT_FORMATTINGS:
        key = columns.messages or "messages"
        return with_system(row, spec, read_chat(column(row, columns.messages), key, spec)), key
    key = columns.prompt or columns.history or "prompt"
    if spec.formatting == "prompt_completion":
        return with_system(row, spec, _given(column(row, columns.prompt), key)), key
    placed = [(Turn("system", optional_text(row, columns.system)), columns.system or "system")]
    placed += _history(row, columns.history)
    if columns.prompt is not None:
        placed.append((Turn("user", asked_text(row, spec)), key))
    return placed, key


def asked_text(row: Row, spec: DatasetSpec) -> str:
    """Prompt and query joined with one newline; either may be empty."""
    columns = spec.columns
    first = as_text(column(row, columns.prompt), columns.prompt or "prompt")
    return "\n".join(part for part in (first, optional_text(row, columns.query)) if part)


def _given(value: object, key: str) -> list[Placed]:
    """A prompt as text or as openai messages, whose answers are then not trained on."""
    if not isinstance(value, list):
        return [(Turn("user", as_text(value, key)), key)]
    before = read_openai_messages(value, key)
    return [(replace(turn, weight=0.0) if turn.role == "assistant" else turn, place) for turn, place in before]


def _history(row: Row, key: str | None) -> list[Placed]:
    value = row.get(key) if key is not None else None
    if key is None or value is None or value == "":
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):  # as CSV has it
        value = from_json_text(value, "broken history", key)
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


def read_chat(value: object, key: str, spec: DatasetSpec) -> list[Placed]:
    """Messages with the tags of the dataset; in alpaca and prompt_completion rows they are openai messages."""
    if spec.formatting not in CHAT_FORMATTINGS:
        return read_openai_messages(value, key)
    return read_messages(value, key, spec.tags, standard=spec.formatting == "openai")


def read_one(value: object, key: str, spec: DatasetSpec) -> Placed:
    """One message, read as `read_chat` reads a list of them."""
    if spec.formatting not in CHAT_FORMATTINGS:
        return read_message(value, key, OPENAI_TAGS, standard=True), key
    return read_message(value, key, spec.tags, standard=spec.formatting == "openai"), key


def with_system(row: Row, spec: DatasetSpec, placed: list[Placed]) -> list[Placed]:
    """Put the system column in front; a system message at the start of the list goes before it."""
    if spec.columns.system is None or (placed and placed[0][0].role == "system"):
        return placed
    system = Turn("system", optional_text(row, spec.columns.system))
    return [(system, spec.columns.system), *placed]


def tools_of(row: Row, spec: DatasetSpec) -> tuple[dict[str, object], ...]:
    """The tool descriptions of a row."""
    key = spec.columns.tools
    return read_tools(row.get(key), key) if key is not None else ()
