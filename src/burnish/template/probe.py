"""What a chat template can do, found out by rendering small conversations with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.data.records import Conversation, ToolCall, Turn
from burnish.template.messages import to_messages
from burnish.template.render import CannotRender, Renderer

if TYPE_CHECKING:
    from burnish.template.catalogue import Family

PROBE = "probe"
TOOL_NAME, ARGUMENTS = "probe_tool", {"probe_argument": "probe value"}
CALL_IDS = ("probe0001", "probe0002")
ASKED = Turn("user", PROBE)
_SYSTEM = Turn("system", "probe system")
_TOLD = Turn("assistant", PROBE)
_CALLED = Turn("assistant", "", tool_calls=(ToolCall(TOOL_NAME, ARGUMENTS, CALL_IDS[0]),))
_RESULT = Turn("tool", "probe result", name=TOOL_NAME, call_id=CALL_IDS[0])
TOOL = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "probe description",
        "parameters": {
            "type": "object",
            "properties": {"probe_argument": {"type": "string", "description": "probe"}},
            "required": ["probe_argument"],
        },
    },
}

Text = Callable[[Conversation, bool], str]
"""(conversation, whether an answer is to follow) → rendered text. Raises CannotRender."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template writes of a conversation; what it does not write would be lost without a word."""

    system: bool
    tools: bool
    calls: bool
    reasoning: bool


def probe(text: Text) -> Abilities:
    """Render small conversations and see what is left of them."""
    thought = Turn("assistant", PROBE, reasoning="probe thought")
    return Abilities(
        system=_writes(text, Conversation((_SYSTEM, ASKED, _TOLD)), _SYSTEM.content),
        tools=_writes(text, Conversation((ASKED, _TOLD), (TOOL,)), TOOL_NAME),
        calls=_writes(text, Conversation((ASKED, _CALLED), (TOOL,)), "probe value")
        and _writes(text, Conversation((ASKED, _CALLED, _RESULT, _TOLD), (TOOL,)), "probe result"),
        reasoning=_writes(text, Conversation((ASKED, thought)), "probe thought"),
    )


def abilities_of(family: Family) -> Abilities:
    """`probe` for a shipped template, without a tokenizer."""
    return probe(renderer_of(family))


def renderer_of(family: Family) -> Text:
    """What renders conversations with a shipped template, without a tokenizer."""
    renderer = Renderer(family.source, family.name, {"bos_token": family.bos or "", "eos_token": family.eos or "</s>"})
    return lambda conversation, generate: renderer.text(
        to_messages(conversation.turns), list(conversation.tools), generate=generate
    )


def after_a_plain_answer(text: Text) -> str:
    """What the template writes after the last answer."""
    whole = text(Conversation((ASKED, _TOLD)), False)
    return whole[whole.rindex(PROBE) + len(PROBE) :] if PROBE in whole else ""


def after_a_call(text: Text) -> str:
    """What the template writes after the arguments of a tool call, the last turn; empty where it knows no calls."""
    try:
        whole = text(Conversation((ASKED, _CALLED), (TOOL,)), False)
    except CannotRender:
        return ""
    return whole[whole.rindex("probe value") + len("probe value") :] if "probe value" in whole else ""


def of_a_question(text: Text) -> str:
    """A user turn alone."""
    try:
        return text(Conversation((ASKED,)), False)
    except CannotRender:
        return ""


def _writes(text: Text, conversation: Conversation, needle: str) -> bool:
    try:
        return needle in text(conversation, False)
    except CannotRender:
        return False
