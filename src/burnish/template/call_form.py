"""How a template writes calls around their names and arguments, so that a model can be held to writing one.

A template does not say so. A call is rendered with it, and what stands around its arguments is the form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.data.records import Conversation, ToolCall, Turn
from burnish.errors import TemplateError
from burnish.template.calls import as_written
from burnish.template.probe import TOOL

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate

NAME = "probe_tool"
"""Stands in a form where the name of a tool is to stand."""
CALL_IDS = ("probe0001", "probe0002")
"""Stand in a form where the template writes the id of a call."""
_ASKED = Turn("user", "probe")
_ARGUMENTS = {"probe_argument": "probe value"}
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallForm:
    """What stands around the arguments of calls, which themselves are a JSON object.

    `one`: before and after those of a single call. `two`: before, between and after those of two; None where the
    template writes a single call only.
    """

    one: tuple[str, str]
    two: tuple[str, str, str] | None


def call_form_of(template: ChatTemplate) -> CallForm | None:
    """The form; None where the template knows no calls, writes arguments in another way than JSON, or begins an answer
    otherwise than its prompt does."""
    one = _around(template, 1)
    if one is None:
        return None
    two = _around(template, 2)
    return CallForm((one[0], one[1]), None if two is None else (two[0], two[1], two[2]))


def _around(template: ChatTemplate, count: int) -> list[str] | None:
    """What stands before, between and after the arguments of some calls."""
    calls = tuple(ToolCall(NAME, dict(_ARGUMENTS), call_id) for call_id in CALL_IDS[:count])
    try:
        prompt = template.text(Conversation((_ASKED,), (TOOL,)), generate=True)
        whole = template.text(Conversation((_ASKED, Turn("assistant", "", tool_calls=calls)), (TOOL,)), generate=False)
        written = as_written(template, _ASKED, calls, (TOOL,))
    except TemplateError:
        return None
    if not whole.startswith(prompt):
        return None
    parts: list[str] = []
    place = 0
    for _ in calls:
        key = written.find('"probe_argument"', place)
        begin = written.rfind("{", place, max(key, place))
        if begin < 0:
            return None
        try:
            found, end = _DECODER.raw_decode(written, begin)
        except ValueError:
            return None
        if found != _ARGUMENTS:
            return None
        parts.append(written[place:begin])
        place = end
    if any(part.count(NAME) != 1 for part in parts) or NAME in written[place:]:
        return None
    return [*parts, written[place:]]
