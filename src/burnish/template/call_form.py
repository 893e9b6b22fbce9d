"""How a template writes calls around their names and arguments, so that a model can be held to writing one.

A template does not say so. A call is rendered with it, and what stands around its arguments is the form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.data.records import ToolCall
from burnish.errors import TemplateError
from burnish.template.calls import asked_and_called, up_to_stop
from burnish.template.probe import ARGUMENTS, ASKED, CALL_IDS, TOOL, TOOL_NAME

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate

_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallForm:
    """What stands around the arguments of calls, which themselves are a JSON object.

    In them `probe.TOOL_NAME` stands where the name of a tool is to stand, and `probe.CALL_IDS` where the template
    writes the ids of calls.

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
    calls = tuple(ToolCall(TOOL_NAME, ARGUMENTS, call_id) for call_id in CALL_IDS[:count])
    try:
        prompt, whole = asked_and_called(template, ASKED, calls, (TOOL,))
    except TemplateError:
        return None
    if not whole.startswith(prompt):
        return None
    written = up_to_stop(template, prompt, whole)
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
        if found != ARGUMENTS:
            return None
        parts.append(written[place:begin])
        place = end
    if any(part.count(TOOL_NAME) != 1 for part in parts) or TOOL_NAME in written[place:]:
        return None
    return [*parts, written[place:]]
