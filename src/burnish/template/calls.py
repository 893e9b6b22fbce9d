"""Tool calls read back from what a model wrote: the reverse of what a template does with `tool_calls`.

A tokenizer's own template does not say how it writes calls. So a call is rendered with it, and the format is the one
that reads this call back as it was.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish.data.records import Conversation, ToolCall, Turn
from burnish.errors import TemplateError
from burnish.template.probe import ARGUMENTS, ASKED, CALL_IDS, TOOL, TOOL_NAME

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate

Tools = Sequence[Mapping[str, Any]]
Answer = tuple[str, tuple[ToolCall, ...]]
"""What is said beside the calls, and the calls."""
_DECODER = json.JSONDecoder()
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_ACTION = re.compile(r"Action:[ \t]*([^\n]+?)[ \t]*\n\s*Action Input:[ \t]*")
_THOUGHT = re.compile(r".*</think>\s*", re.DOTALL)
_NAME = re.compile(r"[\w.:/-]+")
_NAMED = re.compile(r"\s*(?:<\|assistant\|>\s*)?([\w.-]+)[ \t]*\n")
_CALLED = re.compile(r"\s*,?\s*([\w.-]+)\(")
_KEYWORD = re.compile(r"\s*,?\s*(\w+)\s*=\s*")


class _NotACall(Exception):
    """What stands here is no call in this format."""


@dataclass(frozen=True, slots=True)
class CallFormat:
    """One way to write calls. A call begins with one of `starts`; without any, the whole answer is a call or none."""

    name: str
    starts: tuple[str, ...]
    _read: Callable[[str, Tools], Answer]

    def read(self, text: str, tools: Tools) -> Answer:
        """Take an answer apart; one that holds no whole, well-formed call is all words.

        Args:
            text: an answer with special tokens kept, without its stop token.
            tools: the tool descriptions that the prompt had.
        """
        thought = _THOUGHT.match(text)  # a call that is only thought of is none
        said = text[thought.end() :] if thought else text
        try:
            words, calls = self._read(said, tools)
        except (_NotACall, ValueError, RecursionError):
            return text, ()
        return (thought[0] if thought else "") + words, calls


def format_of(template: ChatTemplate) -> CallFormat | None:
    """The format in which a template writes calls; None where it writes none, or in a way that is not known."""
    call = ToolCall(TOOL_NAME, ARGUMENTS, CALL_IDS[0])
    try:
        written = as_written(template, ASKED, (call,), (TOOL,))
    except TemplateError:
        return None
    for known in FORMATS:
        words, calls = known.read(written, (TOOL,))
        same = [(one.name, one.arguments) for one in calls] == [(call.name, call.arguments)]
        if same and not _THOUGHT.sub("", words).strip():
            return known
    return None


def as_written(template: ChatTemplate, asked: Turn, calls: tuple[ToolCall, ...], tools: Tools) -> str:
    """What a model has to write after a question to make these calls, without its stop token.

    Raises:
        TemplateError: the template knows no calls.
    """
    return up_to_stop(template, *asked_and_called(template, asked, calls, tools))


def asked_and_called(template: ChatTemplate, asked: Turn, calls: tuple[ToolCall, ...], tools: Tools) -> tuple[str, str]:
    """A prompt, and the text with an answer that makes these calls. Raises TemplateError."""
    told = tuple(dict(tool) for tool in tools)
    prompt = template.text(Conversation((asked,), told), generate=True)
    return prompt, template.text(Conversation((asked, Turn("assistant", "", tool_calls=calls)), told), generate=False)


def up_to_stop(template: ChatTemplate, prompt: str, whole: str) -> str:
    """What stands in the whole after what it has in common with the prompt, up to the first stop token."""
    both = min(len(prompt), len(whole))
    same = next((place for place in range(both) if prompt[place] != whole[place]), both)
    ends = [place for name in template.stop_names if (place := whole.find(name, same)) >= 0]
    return whole[same : min(ends, default=None)]


def _json_at(text: str, place: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, after white space, and where it ends."""
    while place < len(text) and text[place].isspace():
        place += 1
    return _DECODER.raw_decode(text, place)


def _as_call(value: Any, arguments: str = "arguments") -> ToolCall:
    """A call from `{"name", "arguments"}`, the second by its name in the format."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise _NotACall
    given = value.get(arguments, {})
    if not isinstance(given, dict):
        raise _NotACall
    call_id = value.get("id")
    return ToolCall(value["name"], given, call_id if isinstance(call_id, str) else None)


def _names(tools: Tools) -> set[str]:
    return {str(_function(tool).get("name")) for tool in tools}


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def _between_marks(name: str, begin: str, end: str) -> CallFormat:
    """JSON of one call, or a list of them, between two marks, the second of which may be missing at the end."""

    def read(text: str, tools: Tools) -> Answer:
        words, place, calls = [], 0, []
        while (found := text.find(begin, place)) >= 0:
            words.append(text[place:found])
            value, place = _json_at(text, found + len(begin))
            calls += [_as_call(each) for each in (value if isinstance(value, list) else [value])]
            rest = len(text) - len(text[place:].lstrip())
            if end and text.startswith(end, rest):
                place = rest + len(end)
        words.append(text[place:])
        return _said(words, calls)

    return CallFormat(name, (begin,), read)


def _said(words: Iterable[str], calls: Sequence[ToolCall]) -> Answer:
    if not calls:
        raise _NotACall
    return "".join(words).strip(), tuple(calls)


def _read_actions(text: str, tools: Tools) -> Answer:
    words, place, calls = [], 0, []
    while found := _ACTION.search(text, place):
        words.append(text[place : found.start()])
        given, place = _json_at(text, found.end())
        calls.append(_as_call({"name": found[1], "arguments": given}))
    words.append(text[place:])
    return _said(words, calls)


def _read_named_lines(text: str, tools: Tools) -> Answer:
    """A name on a line and its arguments on the next; only names of tools, as nothing else marks a call."""
    place, calls = 0, []
    while text[place:].strip():
        found = _NAMED.match(text, place)
        if not found or found[1] not in _names(tools):
            raise _NotACall
        given, place = _json_at(text, found.end())
        calls.append(_as_call({"name": found[1], "arguments": given}))
    return _said([], calls)


def _read_object(text: str, tools: Tools) -> Answer:
    """The whole answer is one JSON object or a list; only names of tools, since answers may be JSON as well."""
    begin = text.strip().removeprefix("<|python_tag|>")
    value, end = _json_at(begin, 0)
    calls = [_as_call(each, "parameters") for each in (value if isinstance(value, list) else [value])]
    if begin[end:].strip() or any(call.name not in _names(tools) for call in calls):
        raise _NotACall
    return _said([], calls)


def _read_tagged(text: str, tools: Tools) -> Answer:
    words, place, calls = [], 0, []
    while (found := text.find("<tool_call>", place)) >= 0:
        words.append(text[place:found])
        end = text.find("</tool_call>", found)
        inner = text[found + len("<tool_call>") : end if end >= 0 else len(text)]
        name = inner.split("<arg_key>", 1)[0].strip()
        if not _NAME.fullmatch(name):
            raise _NotACall
        types = _types(name, tools)
        given = {key: _typed(value, types.get(key)) for key, value in _ARGUMENT.findall(inner)}
        calls.append(ToolCall(name, given))
        place = end + len("</tool_call>") if end >= 0 else len(text)
    words.append(text[place:])
    return _said(words, calls)


def _types(name: str, tools: Tools) -> dict[str, Any]:
    """The declared schema of each argument of a tool."""
    for tool in map(_function, tools):
        if tool.get("name") == name:
            return dict((tool.get("parameters") or {}).get("properties") or {})
    return {}


def _typed(value: str, schema: Any) -> Any:
    """An argument that was written as text if it is text, and as JSON if it is anything else.

    Text that spells JSON (`5`, `null`) is what the schema lets it be.
    """
    kinds = _kinds(schema)
    if kinds == {"string"}:
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return value if kinds and "string" in kinds and _kind(found) not in kinds else found


def _kinds(schema: Any) -> set[str]:
    """The types that a schema allows; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return set()
    if "enum" in schema or "const" in schema:
        return {_kind(each) for each in (schema.get("enum") or [schema.get("const")])}
    said = schema.get("type")
    if said is not None:
        all_of_them = set(said if isinstance(said, list) else [said])
        return all_of_them | ({"integer"} if "number" in all_of_them else set())
    parts = [_kinds(each) for each in (schema.get("anyOf") or schema.get("oneOf") or ())]
    return set().union(*parts) if all(parts) else set()


def _kind(value: Any) -> str:
    names = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _read_python(text: str, tools: Tools) -> Answer:
    begin, end = "<|tool_call_start|>", "<|tool_call_end|>"
    before, found, rest = text.partition(begin)
    if not found:
        raise _NotACall
    inner, _, after = rest.partition(end)
    inner = inner.strip()
    if not inner.startswith("["):
        raise _NotACall
    try:
        calls = _json_keywords(inner)
    except (_NotACall, ValueError):
        calls = _python_calls(inner)
    return _said([before, after], calls)


def _json_keywords(text: str) -> list[ToolCall]:
    """`[name(key=JSON, …), …]`"""
    calls, place = [], 1
    while found := _CALLED.match(text, place):
        place, given = found.end(), {}
        while key := _KEYWORD.match(text, place):
            given[key[1]], place = _json_at(text, key.end())
        if not text.startswith(")", place):
            raise _NotACall
        calls.append(ToolCall(found[1], given))
        place += 1
    if text[place:].strip() != "]":
        raise _NotACall
    return calls


def _python_calls(text: str) -> list[ToolCall]:
    """The same with values as Python writes them; they are read as literals, nothing is run."""
    try:
        parsed = ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError) as error:
        raise _NotACall from error
    calls = []
    for one in parsed.elts if isinstance(parsed, ast.List) else []:
        if not isinstance(one, ast.Call) or one.args or any(key.arg is None for key in one.keywords):
            raise _NotACall
        calls.append(
            ToolCall(ast.unparse(one.func), {str(key.arg): ast.literal_eval(key.value) for key in one.keywords})
        )
    return calls


def _read_arguments_after_name(text: str, tools: Tools) -> Answer:
    words, *parts = text.split("[TOOL_CALLS]")
    calls = []
    for part in parts:
        name, found, given = part.partition("[ARGS]")
        if not found:
            raise _NotACall
        value, end = _json_at(given, 0)
        if given[end:].strip():
            raise _NotACall
        calls.append(_as_call({"name": name.strip(), "arguments": value}))
    return _said([words], calls)


FORMATS = (
    _between_marks("qwen", "<tool_call>", "</tool_call>"),
    CallFormat("glm4_moe", ("<tool_call>",), _read_tagged),
    CallFormat("ministral3", ("[TOOL_CALLS]",), _read_arguments_after_name),
    _between_marks("mistral", "[TOOL_CALLS]", ""),
    _between_marks("phi4_mini", "<|tool_call|>", "<|/tool_call|>"),
    CallFormat("lfm2", ("<|tool_call_start|>",), _read_python),
    CallFormat("default", ("Action:",), _read_actions),
    CallFormat("llama3", (), _read_object),
    CallFormat("glm4", (), _read_named_lines),
)
