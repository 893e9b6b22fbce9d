"""How a template writes calls around their names and arguments, so that a model can be held to writing one.

A template does not say so. A call is rendered with it, and what stands around its arguments is the form.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.data.records import ToolCall
from burnish.errors import TemplateError
from burnish.template.calls import as_written, asked_and_called, up_to_stop
from burnish.template.probe import ARGUMENTS, ASKED, CALL_IDS, TOOL, TOOL_NAME

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate

_DECODER = json.JSONDecoder()
(_NAME,) = ARGUMENTS
_SECOND = {"second_argument": "second value"}


@dataclass(frozen=True, slots=True)
class Members:
    """How a template writes arguments that are no JSON object: one by one, each with its name.

    `begin name between value end`, and `joint` in the place of `end` and `begin` between two of them; a call without
    arguments has none of these. `bare`: texts stand without quotation marks, up to `end`; all else is JSON.
    """

    begin: str
    between: str
    joint: str
    end: str
    bare: bool

    def can_name(self, name: str) -> bool:
        """Whether an argument of this name can be told from what stands around it."""
        return self.between not in name if self.bare else name.isidentifier()


@dataclass(frozen=True, slots=True)
class CallForm:
    """What stands around the arguments of calls, which are a JSON object, or `members`.

    In them `probe.TOOL_NAME` stands where the name of a tool is to stand, and `probe.CALL_IDS` where the template
    writes the ids of calls.

    `one`: before and after those of a single call. `two`: before, between and after those of two; None where the
    template writes a single call only.
    """

    one: tuple[str, str]
    two: tuple[str, str, str] | None
    members: Members | None = None


def call_form_of(template: ChatTemplate) -> CallForm | None:
    """The form; None where the template knows no calls, writes arguments in a way that is not known, or begins an
    answer otherwise than its prompt does."""
    single = _written(template, 1)
    if single is None:
        return None
    members, arguments = None, _json_in(single)
    if arguments is None:
        members = _members_of(template, single)
        if members is None:
            return None
        value = ARGUMENTS[_NAME] if members.bare else json.dumps(ARGUMENTS[_NAME])
        arguments = f"{members.begin}{_NAME}{members.between}{value}{members.end}"
    one = _around(single, arguments, 1)
    if one is None:
        return None
    two = _around(_written(template, 2) or "", arguments, 2)
    return CallForm((one[0], one[1]), None if two is None else (two[0], two[1], two[2]), members)


def _written(template: ChatTemplate, count: int) -> str | None:
    """What a model has to write to make some calls. None where that does not follow its prompt."""
    calls = tuple(ToolCall(TOOL_NAME, ARGUMENTS, call_id) for call_id in CALL_IDS[:count])
    try:
        prompt, whole = asked_and_called(template, ASKED, calls, (TOOL,))
    except TemplateError:
        return None
    return up_to_stop(template, prompt, whole) if whole.startswith(prompt) else None


def _json_in(written: str) -> str | None:
    """The arguments as they stand there, where they are JSON."""
    key = written.find(f'"{_NAME}"')
    begin = written.rfind("{", 0, max(key, 0))
    if begin < 0:
        return None
    try:
        found, end = _DECODER.raw_decode(written, begin)
    except ValueError:
        return None
    return written[begin:end] if found == ARGUMENTS else None


def _members_of(template: ChatTemplate, one: str) -> Members | None:
    """How arguments are written one by one, from a call with none of them, one (`one`) and two."""
    try:
        none, two = (
            as_written(template, ASKED, (ToolCall(TOOL_NAME, given, CALL_IDS[0]),), (TOOL,))
            for given in ({}, {**ARGUMENTS, **_SECOND})
        )
    except TemplateError:
        return None
    bare = json.dumps(ARGUMENTS[_NAME]) not in one
    places, words = [], [text for pair in (*ARGUMENTS.items(), *_SECOND.items()) for text in pair]
    for place, word in enumerate(words):
        written = word if bare or place % 2 == 0 else json.dumps(word)
        part, met, two = two.partition(written)
        if not met:
            return None
        places.append(part)
    before, between, joint, again = places
    shared = next(
        (cut for cut in range(len(none) + 1) if two.endswith(none[cut:]) and before.startswith(none[:cut])), None
    )
    if shared is None or between != again or not between:
        return None
    begin, end = before[shared:], two[: len(two) - (len(none) - shared)]
    return None if bare and not (end and end.isascii()) else Members(begin, between, joint, end, bare)


def _around(written: str, arguments: str, count: int) -> list[str] | None:
    """What stands before, between and after the arguments of some calls."""
    parts = written.split(arguments)
    if len(parts) != count + 1 or any(part.count(TOOL_NAME) != 1 for part in parts[:-1]) or TOOL_NAME in parts[-1]:
        return None
    return parts
