"""A conversation as the list of messages that Jinja chat templates take (the OpenAI shape)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burnish.data.records import Conversation, Turn


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as `{"role", "content", …}` dicts; reasoning and tool calls only where a turn has them."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.reasoning is not None:
            message["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in turn.tool_calls
            ]
        messages.append(message)
    return messages


def with_system(conversation: Conversation, default_system: str | None) -> Conversation:
    """The conversation with a system turn in front, where it has none and a default is given."""
    if not default_system or (conversation.turns and conversation.turns[0].role == "system"):
        return conversation
    return Conversation((Turn("system", default_system), *conversation.turns), conversation.tools)


def to_conversation(messages: Sequence[dict[str, Any]]) -> Conversation:
    """Plain role/content messages (chat, predict) as a conversation."""
    return Conversation(tuple(Turn(m["role"], m["content"]) for m in messages))
