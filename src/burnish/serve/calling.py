"""Calls of tools as a grammar: the form in which the template writes them, around arguments that follow a schema."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import partial

from burnish.serve.arguments import any_arguments, listed_arguments
from burnish.serve.bodies import FunctionTool, Tool
from burnish.serve.errors import ApiError, bad_request
from burnish.serve.grammar import Either, Many, Node, control, one_of, seq, text
from burnish.serve.schema import any_object, of_schema
from burnish.template import ChatTemplate
from burnish.template.call_form import CallForm
from burnish.template.probe import CALL_IDS, TOOL_NAME

_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}


def calls_of(form: CallForm, template: ChatTemplate, tools: Sequence[tuple[int, Tool]], *, several: bool) -> Node:
    """One call, or several, of some tools.

    Args:
        tools: each with its place in the request.
        several: whether more than one call may be made.
    Raises:
        ApiError: the parameters of a tool with `strict: true` cannot be followed.
    """
    arguments = [(tool.function.name, _arguments(form, template, place, tool.function)) for place, tool in tools]

    def begun(before: str) -> Node:
        """One call up to the end of its arguments."""
        return Either(tuple(seq(_written(template, before, name), inner) for name, inner in arguments))

    single = seq(begun(form.one[0]), _written(template, form.one[1]))
    if not several or form.two is None:
        return single
    first, between, last = form.two
    more = begun(between)
    return Either((single, seq(begun(first), more, Many(more), _written(template, last))))


def _arguments(form: CallForm, template: ChatTemplate, place: int, tool: FunctionTool) -> Node:
    """The arguments of a tool. What a schema asks that cannot be followed is an error with `strict: true` only."""
    schema = _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    param = f"tools[{place}].function.parameters"
    members = form.members
    try:
        if schema.get("type", "object") != "object" or ("type" not in schema and "properties" not in schema):
            raise bad_request("The parameters of a tool have to be of type object.", param)
        of = of_schema(schema, param, lenient=not tool.strict)
    except ApiError:
        if tool.strict:
            raise
        return any_object() if members is None else any_arguments(members, partial(_written, template))
    if members is None:
        return of
    return listed_arguments(members, partial(_written, template), schema, param, lenient=not tool.strict)


def _written(template: ChatTemplate, form: str, name: str = "") -> Node:
    """A part of a form as a grammar: with a tool's name, any id where it writes one, and control tokens as such."""
    encoder = template.encoder
    marks = sorted((each for each in encoder.names if each), key=len, reverse=True)
    parts: list[Node] = []
    for piece in re.split("(" + "|".join(map(re.escape, [*CALL_IDS, *marks])) + ")", form.replace(TOOL_NAME, name)):
        number = encoder.token_id(piece)
        if piece in CALL_IDS:
            parts += [one_of(string.ascii_letters + string.digits)] * len(piece)
        elif number is not None:
            parts.append(control(number))
        else:
            parts.append(text(piece))
    return seq(*parts)
