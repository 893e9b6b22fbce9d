"""Messages to turns: any role tags, tool calls and results, reasoning, weights, content in parts.

sharegpt and openai rows differ only in their tags, so both go this way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from burnish.data.records import Turn
from burnish.data.rows import BadRow, as_text, check_unicode, from_json_text, kind_of, shown, to_json_text
from burnish.data.spec import OPENAI_TAGS, Tags
from burnish.data.tools import read_call_text, read_calls, read_id

Part = Literal["system", "user", "assistant", "tool", "call"]
Placed = tuple[Turn, str]
"""A turn and its place in the row, `messages[2]`."""
End = Literal["trained", "answer", "prompt"]
"""How turns must end: with an answer, one of them trained on; with an answer; or ready for one."""

JOINED_USER_TURNS = "two user turns in a row were joined"

_STANDARD: dict[str, Part] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_WEIGHT_KEYS = ("weight", "loss_weight", "train")
_TEXT_PARTS = ("text", "input_text", "output_text")


@lru_cache(maxsize=64)
def role_table(tags: Tags, standard: bool) -> dict[str, Part]:
    """Role name in the data → what it is. `standard` also knows the openai names, whatever the tags list."""
    table: dict[str, Part] = dict(_STANDARD) if standard else {}
    named: tuple[tuple[str | None, Part], ...] = (
        (tags.function_tag, "call"),
        (tags.observation_tag, "tool"),
        (tags.system_tag, "system"),
        (tags.assistant_tag, "assistant"),
        (tags.user_tag, "user"),
    )
    table.update({tag: part for tag, part in named if tag is not None})
    return table


def read_content(value: object, key: str) -> str:
    """The text of a message: a string, null, or a list of text parts, which are joined as they stand."""
    if not isinstance(value, list):
        return as_text(value, key)
    texts = []
    for index, part in enumerate(value):
        place = f"{key}[{index}]"
        if isinstance(part, Mapping):
            kind = part.get("type", "text")
            if kind not in _TEXT_PARTS:
                raise BadRow("content is not text", place, f"a part of type {shown(kind)}")
            part = part.get("text")
        if not isinstance(part, str):
            raise BadRow("content is not text", place, kind_of(part))
        texts.append(check_unicode(part, place))
    return "".join(texts)


def read_weight(message: Mapping[str, Any], key: str) -> float:
    """The loss weight of a message from `weight`, `loss_weight` or `train`; 1 where none is given."""
    for name in _WEIGHT_KEYS:
        value = message.get(name)
        if value is None:
            continue
        return as_weight(value, f"{key}.{name}")
    return 1.0


def as_weight(value: Any, key: str) -> float:
    """A loss weight from a number of 0 or more, or from true and false."""
    if isinstance(value, bool):
        return 1.0 if value else 0.0
    if isinstance(value, int | float) and 0 <= value <= 1e6 and math.isfinite(value):
        return float(value)
    raise BadRow("broken weight", key, f"{shown(value)}, not a number of 0 or more")


def read_reasoning(message: Mapping[str, Any], key: str) -> str | None:
    """The thought beside the answer, from `reasoning_content`, `reasoning` or `thinking`."""
    for name in _REASONING_KEYS:
        thought = as_text(message.get(name), f"{key}.{name}")
        if thought.strip():
            return thought
    return None


def read_message(message: object, key: str, tags: Tags, standard: bool) -> Turn:
    """One message as a turn; whether it stands in the right place is `arrange`'s question."""
    if not isinstance(message, Mapping):
        raise BadRow("message is not an object", key, kind_of(message))
    role_key, content_key = tags.role_tag or "role", tags.content_tag or "content"
    if role_key not in message:
        raise BadRow("message has no role", f"{key}.{role_key}")
    role = message[role_key]
    part = role_table(tags, standard).get(role) if isinstance(role, str) else None
    if part is None:
        raise BadRow("unknown role", f"{key}.{role_key}", shown(role))

    place, value = f"{key}.{content_key}", message.get(content_key)
    weight = read_weight(message, key)
    if part == "call":
        thought, calls = read_call_text(value, place)
        return Turn("assistant", "", thought, calls, weight)
    if part == "tool":
        return _read_result(message, value, key, place, weight)
    content = read_content(value, place)
    if part != "assistant":
        return Turn(part, content, weight=weight)
    calls = read_calls(message.get("tool_calls"), f"{key}.tool_calls")
    if not calls and message.get("function_call") is not None:
        _, calls = read_call_text(message["function_call"], f"{key}.function_call")
    return Turn("assistant", content, read_reasoning(message, key), calls, weight)


def _read_result(message: Mapping[str, Any], value: object, key: str, place: str, weight: float) -> Turn:
    """The answer of a tool, with the tool's name and the id of the call where the message has them."""
    content = to_json_text(value, "not text", place) if isinstance(value, Mapping) else read_content(value, place)
    name = as_text(message.get("name"), f"{key}.name")
    call_id = read_id(message.get("tool_call_id"), f"{key}.tool_call_id")
    return Turn("tool", content, weight=weight, name=name or None, call_id=call_id)


def message_list(value: object, key: str) -> list[Any]:
    """A list of messages as formats write it: a list, JSON text of one (as in CSV), or an object of equal lists.

    Raises BadRow for anything else.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json_text(value, "not a list of messages", key)
    if isinstance(value, Mapping) and value and all(isinstance(held, list) for held in value.values()):
        if len({len(held) for held in value.values()}) == 1:
            return [dict(zip(value, each, strict=True)) for each in zip(*value.values(), strict=True)]
        raise BadRow("not a list of messages", key, "an object of lists of unequal length")
    if not isinstance(value, list):
        raise BadRow("not a list of messages", key, kind_of(value))
    return value


def read_messages(value: object, key: str, tags: Tags, *, standard: bool) -> list[Placed]:
    """The turns of a list of messages, their order not yet checked. Raises BadRow for an unreadable one."""
    value = message_list(value, key)
    places = (f"{key}[{index}]" for index in range(len(value)))
    return [(read_message(message, place, tags, standard), place) for message, place in zip(value, places, strict=True)]


def read_openai_messages(value: object, key: str) -> list[Placed]:
    """`read_messages` with the openai names."""
    return read_messages(value, key, OPENAI_TAGS, standard=True)


def arrange(placed: Iterable[Placed], key: str, end: End = "trained") -> tuple[tuple[Turn, ...], int]:
    """Check the order of the turns and join user turns that follow each other.

    Args:
        placed: the turns and their places in the row.
        key: the column, for a row without any turn.
        end: how the turns must end.
    Returns:
        The turns (an empty system turn is left out) and how many user turns were joined to the one before.
    Raises:
        BadRow: the order cannot be trained on, or a turn that must hold text is empty.
    """
    turns: list[Turn] = []
    joined = 0
    for index, (turn, place) in enumerate(placed):
        before = turns[-1].role if turns else None
        if turn.role == "system":
            if index:
                raise BadRow("system turn is not the first", place)
            if turn.content.strip():
                turns.append(turn)
            continue
        if turn.role == "user":
            if not turn.content.strip():
                raise BadRow("empty prompt", place)
            if before == "user":
                joined += 1
                first = turns.pop()
                text = f"{first.content}\n{turn.content}"
                turn = replace(first, content=text, weight=min(first.weight, turn.weight))
        elif turn.role == "assistant":
            _check_answer(turn, before, place)
        elif before not in ("assistant", "tool"):
            raise BadRow("tool result without a call", place)
        turns.append(turn)
    _check_end(turns, key, end)
    return tuple(turns), joined


def _check_answer(turn: Turn, before: str | None, place: str) -> None:
    if before in (None, "system"):
        raise BadRow("first turn is the assistant's", place)
    if before == "assistant":
        raise BadRow("two assistant turns in a row", place)
    if not turn.content.strip() and not turn.tool_calls:
        raise BadRow("empty answer", place)


def _check_end(turns: list[Turn], key: str, end: End) -> None:
    if not turns or turns[-1].role == "system":  # a system turn is the first, so it is then alone
        raise BadRow("no turns", key)
    last = turns[-1]
    if end == "prompt":
        if last.role == "assistant":
            raise BadRow("prompt ends with an answer", key)
        return
    if last.role != "assistant":
        found = any(turn.role == "assistant" for turn in turns)
        raise BadRow("last turn has no answer" if found else "no answer", key)
    if end == "trained" and not last.weight and not any(turn.weight for turn in turns if turn.role == "assistant"):
        raise BadRow("no answer is trained", key, "all weights are 0")
