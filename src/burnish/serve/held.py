"""What a request holds its answer to, token by token: calls of tools, JSON, or either of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.serve.bodies import ChatBody, ChosenTool, JsonFormat, TemplateArguments, TextFormat, Tool
from burnish.serve.calling import calls_of
from burnish.serve.errors import bad_request
from burnish.serve.grammar import Either, Node
from burnish.serve.models import Served
from burnish.serve.schema import any_object, of_schema
from burnish.serve.shaping import Shape
from burnish.template import ChatTemplate

_FORMAT = "response_format"


@dataclass(frozen=True)
class Held:
    """`shape` keeps to the form; `param` is what asked for it."""

    shape: Shape
    param: str


def check_choice(body: ChatBody) -> None:
    """Raise ApiError for a choice of tools that contradicts the rest of the request."""
    choice = body.tool_choice
    if choice not in (None, "none") and not body.tools:
        raise bad_request(f"tool_choice: {_said(choice)} needs tools.", "tool_choice")
    if isinstance(choice, ChosenTool) and not _callable(body):
        raise bad_request(f"tool_choice names '{choice.function.name}', which is none of the tools.", "tool_choice")
    for place, tool in enumerate(body.tools or ()):
        if tool.function.strict and not _is_held(body):
            raise bad_request(
                "strict: true needs tool_choice: required or a named function: other calls are not checked.",
                f"tools[{place}].function.strict",
            )


def template_for(served: Served, body: ChatBody) -> ChatTemplate:
    """The template as a request wants it. A thought would break the form, so an answer that is held has none.

    Raises:
        ApiError: the template has no place for what is asked, or a thought is asked for.
    """
    wishes = body.chat_template_kwargs
    if _is_held(body) and "enable_thinking" in served.template.source:
        if wishes is not None and wishes.enable_thinking:
            raise bad_request(
                "An answer that is held to a form by tool_choice or response_format cannot begin with a thought.",
                "chat_template_kwargs.enable_thinking",
            )
        wishes = TemplateArguments(enable_thinking=False)
    return served.template_for(wishes)


def held_to(served: Served, template: ChatTemplate, body: ChatBody) -> Held | None:
    """The form that an answer is held to.

    Args:
        template: as `template_for` gives it.
    Raises:
        ApiError: the template's calls, or a schema, cannot be followed.
    """
    if not _is_held(body):
        return None
    tools = _callable(body)
    makers: list[Callable[[], Node]] = []
    if tools:
        makers.append(lambda: _calls(served, template, body, tools))
    if not _forced(body):
        makers.append(lambda: _json(body))
    asked = body.model_dump_json(include={"tools", "tool_choice", "parallel_tool_calls", _FORMAT}, by_alias=True)
    param = "tool_choice" if _forced(body) else _FORMAT
    guide = served.guide_for(
        json.dumps([asked, template.enable_thinking]), lambda: Either(tuple(make() for make in makers)), param
    )
    return Held(guide.shape, param)


def _forced(body: ChatBody) -> bool:
    """Whether a tool has to be called."""
    return body.tool_choice == "required" or isinstance(body.tool_choice, ChosenTool)


def _is_held(body: ChatBody) -> bool:
    return _forced(body) or not (body.response_format is None or isinstance(body.response_format, TextFormat))


def _callable(body: ChatBody) -> list[tuple[int, Tool]]:
    """The tools that may be called, each with its place in the request."""
    if body.tool_choice == "none":
        return []
    all_tools = list(enumerate(body.tools or ()))
    if not isinstance(body.tool_choice, ChosenTool):
        return all_tools
    wanted = body.tool_choice.function.name
    return [(place, tool) for place, tool in all_tools if tool.function.name == wanted]


def _said(choice: Any) -> str:
    return choice if isinstance(choice, str) else "a named function"


def _calls(served: Served, template: ChatTemplate, body: ChatBody, tools: Sequence[tuple[int, Tool]]) -> Node:
    form = served.call_form(template)
    if form is None:
        asked = f"tool_choice: {_said(body.tool_choice)}" if _forced(body) else f"{_FORMAT} together with tools"
        raise bad_request(
            f"{asked} is not supported with the chat template of this model, which does not write calls in a form that "
            "an answer can be held to.",
            "tool_choice" if _forced(body) else _FORMAT,
        )
    several = body.parallel_tool_calls is not False and not isinstance(body.tool_choice, ChosenTool)
    return calls_of(form, template, tools, several=several)


def _json(body: ChatBody) -> Node:
    wanted = body.response_format
    return of_schema(wanted.json_schema.json_schema) if isinstance(wanted, JsonFormat) else any_object()
