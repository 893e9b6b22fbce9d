"""Records back to rows, in the formats that people exchange. Reading such a row gives the same record again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Record, ToolCall, Turn
from burnish.errors import DataError

Row = dict[str, Any]
_OPENAI_FIX = "convert to openai messages, which hold everything"
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def to_openai(record: Record) -> Row:
    """A record as a row of openai messages.

    Conversations have `messages` and, where there are some, `tools`; preferences also `chosen` and `rejected` (one
    message, or a list where an answer takes several turns); feedback also `label`; prompts also their reference
    fields; documents have `text`.

    Raises:
        DataError: a reference field is called like a part of the row.
    """
    if isinstance(record, Document):
        return {"text": record.text}
    if isinstance(record, Conversation):
        return _conversation(record)
    if isinstance(record, Preference):
        pair = {"chosen": _answer(record.chosen), "rejected": _answer(record.rejected)}
        return _conversation(record.prompt) | pair | _margin(record)
    if isinstance(record, Feedback):
        return _conversation(record.conversation) | {"label": record.desirable}
    row = _conversation(record.prompt)
    taken = [key for key in ("messages", "tools") if key in record.reference]
    if taken:
        raise DataError(f"a reference field is called '{taken[0]}'", fix=f"rename the column '{taken[0]}'")
    return row | record.reference


def _conversation(conversation: Conversation) -> Row:
    row: Row = {"messages": [openai_message(turn) for turn in conversation.turns]}
    if conversation.tools:
        row["tools"] = [dict(tool) for tool in conversation.tools]
    return row


def _answer(turns: Sequence[Turn]) -> Any:
    messages = [openai_message(turn) for turn in turns]
    return messages[0] if len(messages) == 1 else messages


def openai_message(turn: Turn) -> Row:
    """One turn as an openai message. Arguments of calls are JSON text, as in that format."""
    message: Row = {"role": turn.role, "content": turn.content}
    if turn.reasoning is not None:
        message["reasoning_content"] = turn.reasoning
    if turn.tool_calls:
        message["tool_calls"] = [_openai_call(call) for call in turn.tool_calls]
    if turn.name is not None:
        message["name"] = turn.name
    if turn.call_id is not None:
        message["tool_call_id"] = turn.call_id
    if turn.weight != 1.0:
        message["weight"] = turn.weight
    return message


def openai_messages(turns: Iterable[Turn]) -> list[Row]:
    """Turns as a model is asked them: without the weights of training."""
    return [openai_message(replace(turn, weight=1.0)) for turn in turns]


def _openai_call(call: ToolCall) -> Row:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return ({"id": call.id} if call.id is not None else {}) | {"type": "function", "function": function}


def to_alpaca(record: Record) -> Row:
    """A record as an alpaca row: `instruction`, `input` (empty), and `output`, or `chosen` and `rejected`.

    `system` and `history` are there where the record has them, `label` in feedback.

    Raises:
        DataError: the record holds what the format cannot: tools, calls, reasoning, weights, a single turn that is
            not answered, or plain text.
    """
    if isinstance(record, Conversation):
        *before, last = record.turns
        return _alpaca(replace(record, turns=tuple(before))) | {"output": _only_text([last])}
    if isinstance(record, Feedback):
        return to_alpaca(record.conversation) | {"label": record.desirable}
    if isinstance(record, Preference):
        pair = {"chosen": _only_text(record.chosen), "rejected": _only_text(record.rejected)}
        return _alpaca(record.prompt) | pair | _margin(record)
    raise _cannot("alpaca", "plain text" if isinstance(record, Document) else "a prompt without an answer")


def _alpaca(prompt: Conversation) -> Row:
    if prompt.tools:
        raise _cannot("alpaca", "tools")
    turns = list(prompt.turns)
    system = turns.pop(0) if turns and turns[0].role == "system" else None
    if (
        not turns
        or len(turns) % 2 == 0
        or any(turn.role != ("user", "assistant")[index % 2] for index, turn in enumerate(turns))
    ):
        raise _cannot("alpaca", "turns of tools")
    texts = [_only_text([turn]) for turn in turns]
    row: Row = {"instruction": texts[-1], "input": ""}
    if system is not None:
        row["system"] = _only_text([system])
    if len(texts) > 1:
        row["history"] = [[texts[at], texts[at + 1]] for at in range(0, len(texts) - 1, 2)]
    return row


def _only_text(turns: Sequence[Turn]) -> str:
    """The text of a single turn that is nothing but text."""
    if len(turns) != 1:
        raise _cannot("alpaca", "an answer of several turns")
    turn = turns[0]
    if turn.tool_calls or turn.role == "tool":
        raise _cannot("alpaca", "calls of tools")
    if turn.reasoning is not None:
        raise _cannot("alpaca", "reasoning")
    if turn.weight != 1.0:
        raise _cannot("alpaca", "weights")
    return turn.content


def to_sharegpt(record: Record) -> Row:
    """A record as a sharegpt row with the default tags: `conversations` and, where there are some, `tools`.

    Preferences have `chosen` and `rejected` messages, feedback a `label`. Calls are turns of `function_call`, whose
    JSON comes after the reasoning in `<think>`.

    Raises:
        DataError: the record holds what the format cannot: ids or names of tool turns, text beside calls, reasoning
            beside text, weights, or plain text.
    """
    if isinstance(record, Conversation):
        row: Row = {"conversations": [_sharegpt_message(turn) for turn in record.turns]}
        if record.tools:
            row["tools"] = json.dumps(list(record.tools), ensure_ascii=False)
        return row
    if isinstance(record, Feedback):
        return to_sharegpt(record.conversation) | {"label": record.desirable}
    if isinstance(record, Preference):
        if len(record.chosen) != 1 or len(record.rejected) != 1:
            raise _cannot("sharegpt", "an answer of several turns")
        pair = {"chosen": _sharegpt_message(record.chosen[0]), "rejected": _sharegpt_message(record.rejected[0])}
        return to_sharegpt(record.prompt) | pair | _margin(record)
    if isinstance(record, Prompt):
        raise _cannot("sharegpt", "a prompt without an answer")
    raise _cannot("sharegpt", "plain text")


def _margin(record: Preference) -> Row:
    return {} if record.margin is None else {"margin": record.margin}


def _sharegpt_message(turn: Turn) -> Row:
    if turn.weight != 1.0:
        raise _cannot("sharegpt", "weights")
    if turn.name is not None or turn.call_id is not None or any(call.id is not None for call in turn.tool_calls):
        raise _cannot("sharegpt", "ids of calls or names of tools")
    if not turn.tool_calls:
        if turn.reasoning is not None:
            raise _cannot("sharegpt", "reasoning")
        return {"from": _SHAREGPT[turn.role], "value": turn.content}
    if turn.content:
        raise _cannot("sharegpt", "text beside a call")
    calls = [{"name": call.name, "arguments": call.arguments} for call in turn.tool_calls]
    value = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    if turn.reasoning is not None and (turn.reasoning != turn.reasoning.strip() or "</think>" in turn.reasoning):
        raise _cannot("sharegpt", "this reasoning (it has spaces around it, or a tag in it)")
    thought = f"<think>\n{turn.reasoning}\n</think>\n" if turn.reasoning is not None else ""
    return {"from": "function_call", "value": thought + value}


def _cannot(formatting: str, what: str) -> DataError:
    return DataError(f"{formatting} rows cannot hold {what}", fix=_OPENAI_FIX)


def dataset_entry(formatting: str, record: Record, row: Row) -> Row:
    """The entry of `dataset_info.json` that reads a row of this module, less the file name.

    Args:
        formatting: `openai`, `alpaca` or `sharegpt`, as the row was written.
        record: the record.
        row: its row; the columns `system`, `history` and `tools` are listed where it has them.
    """
    if isinstance(record, Document):
        return {"columns": {"prompt": "text"}}
    columns = {"openai": {"messages": "messages"}, "sharegpt": {"messages": "conversations"}}.get(
        formatting, {"prompt": "instruction", "query": "input"}
    )
    if "output" in row and formatting == "alpaca":
        columns["response"] = "output"
    columns |= {name: name for name in ("system", "history", "tools") if name in row}
    entry: Row = {"formatting": formatting}
    if isinstance(record, Preference):
        entry["ranking"] = True
        columns |= {name: name for name in ("chosen", "rejected", "margin") if name in row}
    if isinstance(record, Feedback):
        columns["kto_tag"] = "label"
    return entry | {"columns": columns}
