"""JSON, and JSON of a given schema, as a grammar. What it makes is always valid; it does not make all that would be.

White space is bounded, the properties of an object come in the order of the schema, and numbers have at most 16 digits
before and after the point: a model that may write spaces or digits without end sometimes does.

Source: JSON, RFC 8259; JSON Schema, draft 2020-12; UTF-8, RFC 3629, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from burnish.serve.errors import bad_request
from burnish.serve.grammar import Either, Later, Many, Node, between, maybe, one_of, seq, text, up_to

_SAID_ONLY = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"}
_SAID_ONLY |= {"deprecated", "readOnly", "writeOnly"}
_KNOWN = {"type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems"}
_KNOWN |= {"anyOf", "$ref"}
_MOST_ITEMS = 256


def any_object() -> Node:
    """Any JSON object."""
    return _any_of_type("object")


def of_schema(
    schema: Mapping[str, Any], param: str = "response_format.json_schema.schema", *, lenient: bool = False
) -> Node:
    """JSON of a schema.

    Args:
        param: where a request has it.
        lenient: follow what can be followed; keywords that are not supported narrow nothing.
    Raises:
        ApiError: the schema uses a keyword that is not supported, by its name, or cannot be fulfilled.
    """
    try:
        return _Compiler(schema, lenient).whole()
    except _CannotFollow as why:
        raise bad_request(f"This schema cannot be followed: {why}.", param) from None


def properties_of(
    schema: Mapping[str, Any], param: str, *, lenient: bool, bare: Node | None
) -> list[tuple[str, Node, bool]] | None:
    """The properties of an object one by one: name, JSON of the value, and whether it has to be there.

    Args:
        bare: stands for a value that is a text, in the place of a JSON string; None where it is one.
        param, lenient: as in `of_schema`.
    Returns:
        None where any property may be there.
    Raises:
        ApiError: as `of_schema`.
    """
    try:
        return _Compiler(schema, lenient).properties(bare)
    except _CannotFollow as why:
        raise bad_request(f"This schema cannot be followed: {why}.", param) from None


def any_value() -> Node:
    """Any JSON."""
    return _any()


def _space() -> Node:
    return Either((text(""), text(" "), seq(text("\n"), up_to(text(" "), 24))))


@cache
def wide_character() -> Node:
    """One character beyond ASCII, in UTF-8."""
    tail = between(0x80, 0xBF)
    return Either(
        (
            seq(between(0xC2, 0xDF), tail),
            seq(between(0xE0, 0xE0), between(0xA0, 0xBF), tail),
            seq(Either((between(0xE1, 0xEC), between(0xEE, 0xEF))), tail, tail),
            seq(between(0xED, 0xED), between(0x80, 0x9F), tail),
            seq(between(0xF0, 0xF0), between(0x90, 0xBF), tail, tail),
            seq(between(0xF1, 0xF3), tail, tail, tail),
            seq(between(0xF4, 0xF4), between(0x80, 0x8F), tail, tail),
        )
    )


@cache
def _string() -> Node:
    plain = one_of("".join(chr(byte) for byte in range(0x20, 0x80) if chr(byte) not in '"\\'))
    digit = one_of("0123456789abcdefABCDEF")
    code = Either(
        (seq(one_of("0123456789abcefABCEF"), digit, digit, digit), seq(one_of("dD"), one_of("01234567"), digit, digit))
    )
    escaped = seq(text("\\"), Either((one_of('"\\/bfnrt'), seq(text("u"), code))))
    character = Either((plain, wide_character(), escaped))
    return seq(text('"'), Many(character), text('"'))


@cache
def _integer() -> Node:
    return seq(maybe(text("-")), Either((text("0"), seq(one_of("123456789"), up_to(one_of("0123456789"), 15)))))


@cache
def _number() -> Node:
    digits = one_of("0123456789")
    fraction = seq(text("."), digits, up_to(digits, 15))
    exponent = seq(one_of("eE"), maybe(one_of("+-")), digits, up_to(digits, 1))
    return seq(_integer(), maybe(fraction), maybe(exponent))


def _any_of_type(kind: str) -> Node:
    if kind == "object":
        return _map_of(_any())
    if kind == "array":
        return _list_of(_any(), 0, None)
    if kind == "boolean":
        return Either((text("true"), text("false")))
    return {"string": _string, "integer": _integer, "number": _number, "null": _null}[kind]()


@cache
def _null() -> Node:
    return text("null")


@cache
def _any() -> Node:
    kinds = ("object", "array", "string", "number", "boolean", "null")
    return Later(lambda: Either(tuple(_any_of_type(kind) for kind in kinds)))


def _map_of(value: Node) -> Node:
    pair = seq(_string(), text(":"), _space(), value)
    more = Many(seq(_space(), text(","), _space(), pair))
    return seq(text("{"), _space(), maybe(seq(pair, more, _space())), text("}"))


def _list_of(item: Node, least: int, most: int | None) -> Node:
    more = seq(_space(), text(","), _space(), item)
    if most is None:
        tail: Node = seq(*[more] * max(least - 1, 0), Many(more))
    else:
        tail = seq(*[more] * max(least - 1, 0), up_to(more, most - max(least, 1)))
    full = seq(item, tail, _space())
    inner = text("") if most == 0 else full if least else maybe(full)
    return seq(text("["), _space(), inner, text("]"))


def chosen(members: Sequence[tuple[Node, bool]], *, begin: Node, joint: Node, end: Node) -> Node:
    """Some members in their order, each with whether it has to be there; nothing at all where none is.

    Args:
        begin: before the first that is there. joint: between two. end: after the last.
    """
    rest: dict[bool, Node] = {True: text(""), False: end}  # whether none stands before
    for member, needed in reversed(members):
        there = {first: seq(begin if first else joint, member, rest[False]) for first in (True, False)}
        rest = {first: one if needed else Either((one, rest[first])) for first, one in there.items()}
    return rest[True]


class _Compiler:
    """Turns the parts of one schema into nodes; references are followed when they are reached."""

    def __init__(self, root: Mapping[str, Any], lenient: bool = False) -> None:
        self.root, self.lenient = root, lenient
        self._references: dict[tuple[str, bool], Node] = {}

    def whole(self) -> Node:
        """The root. Raises _CannotFollow."""
        return self._node(self._known(self.root), "schema")

    def properties(self, bare: Node | None) -> list[tuple[str, Node, bool]] | None:
        """As `properties_of`. Raises _CannotFollow."""
        schema = self._known(self.root)
        self._node(schema, "schema")  # refuses what cannot be followed
        if schema.get("type") != "object" and "properties" not in schema:
            raise _refused("schema", "the arguments are not listed")
        listed, needed = schema.get("properties") or {}, set(schema.get("required") or [])
        more = schema.get("additionalProperties", True)
        if not listed and not needed:
            return [] if more is False else None
        all_of_them = {**listed, **dict.fromkeys(self._further(schema, "schema"), more)}
        return [
            (name, self.node(each, f"schema.properties.{name}", bare), name in needed)
            for name, each in all_of_them.items()
        ]

    def node(self, schema: Any, at: str, bare: Node | None = None) -> Node:
        """A part. Raises _CannotFollow; a lenient compiler lets anything stand where it cannot follow.

        Args:
            bare: what stands for a text here, but not deeper, in the place of a JSON string.
        """
        try:
            return self._node(self._known(schema), at, bare)
        except _CannotFollow:
            if not self.lenient:
                raise
            return bare or _any()

    def _known(self, schema: Any) -> Any:
        """A lenient compiler leaves out the keywords that are not supported."""
        if not self.lenient or not isinstance(schema, Mapping):
            return schema
        return {name: value for name, value in schema.items() if name in _KNOWN}

    def _node(self, schema: Any, at: str, bare: Node | None = None) -> Node:
        if schema is True:
            return bare or _any()
        if not isinstance(schema, Mapping):
            raise _refused(at, "this cannot be fulfilled")
        unknown = sorted(set(schema) - _SAID_ONLY - _KNOWN)
        if unknown:
            raise _refused(at, f"the keyword '{unknown[0]}' is not supported")
        for alone in ("$ref", "anyOf", "const", "enum"):
            if alone in schema:
                others = sorted(set(schema) - _SAID_ONLY - {alone, "type"})
                if others or (alone in ("$ref", "anyOf") and "type" in schema):
                    raise _refused(at, f"'{alone}' together with '{(others or ['type'])[0]}' is not supported")
                return self._alone(alone, schema, at, bare)
        kinds = schema.get("type")
        if kinds is None:
            kinds = "object" if "properties" in schema else "array" if "items" in schema else None
        if kinds is None:
            return bare or _any()
        listed = kinds if isinstance(kinds, list) else [kinds]
        return Either(tuple(bare if bare and kind == "string" else self._typed(kind, schema, at) for kind in listed))

    def _alone(self, keyword: str, schema: Mapping[str, Any], at: str, bare: Node | None) -> Node:
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, at, bare)
        if keyword == "anyOf":
            if not isinstance(value, list) or not value:
                raise _refused(at, "'anyOf' has to be a list")
            return Either(tuple(self.node(each, f"{at}.anyOf[{place}]", bare) for place, each in enumerate(value)))
        values = [value] if keyword == "const" else value
        kinds = schema.get("type")
        listed = kinds if isinstance(kinds, list) else [kinds]
        fitting = [each for each in values if kinds is None or _kind(each) in listed or _number_fits(each, listed)]
        if not fitting:
            raise _refused(at, f"'{keyword}' holds no value of the type")
        written = (each if bare and isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in fitting)
        return Either(tuple(text(each) for each in written))

    def _reference(self, name: Any, at: str, bare: Node | None) -> Node:
        if not isinstance(name, str) or not name.startswith("#"):
            raise _refused(at, "'$ref' can only lead to a part of this schema")
        key = name, bare is None
        if key not in self._references:
            target: Any = self.root
            for part in name.removeprefix("#").strip("/").split("/") if name != "#" else ():
                part = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, Mapping) or part not in target:
                    raise _refused(at, "'$ref' leads nowhere")
                target = target[part]
            found: list[Node] = []
            self._references[key] = Later(lambda: found[0])
            found.append(self.node(target, name, bare))
            if isinstance(found[0], Later):
                raise _refused(at, "'$ref' leads to itself")
        return self._references[key]

    def _typed(self, kind: Any, schema: Mapping[str, Any], at: str) -> Node:
        if kind == "object":
            return self._object(schema, at)
        if kind == "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems")
            for bound in (least, most):
                if bound is not None and (type(bound) is not int or not 0 <= bound <= _MOST_ITEMS):
                    raise _refused(at, f"minItems and maxItems can be up to {_MOST_ITEMS}")
            if most is not None and most < least:
                raise _refused(at, "maxItems is below minItems")
            return _list_of(self.node(schema.get("items", True), f"{at}.items"), least, most)
        if kind not in ("string", "integer", "number", "boolean", "null"):
            raise _refused(at, "'type' names no type")
        return _any_of_type(kind)

    def _further(self, schema: Mapping[str, Any], at: str) -> list[str]:
        """Properties that have to be there and are described nowhere. Raises _CannotFollow."""
        lost = [name for name in schema.get("required") or [] if name not in (schema.get("properties") or {})]
        if lost and (
            schema.get("additionalProperties", True) is False or not all(isinstance(each, str) for each in lost)
        ):
            raise _refused(at, "'required' names a property that may not be there")
        return lost

    def _object(self, schema: Mapping[str, Any], at: str) -> Node:
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refused(at, "'properties' has to be an object and 'required' a list")
        more = schema.get("additionalProperties", True)
        if not properties and not required:
            return seq(text("{"), _space(), text("}")) if more is False else _map_of(self.node(more, at))
        members = {name: self.node(each, f"{at}.properties.{name}") for name, each in properties.items()}
        members |= {name: self.node(more, at) for name in self._further(schema, at)}
        listed = [
            (seq(text(json.dumps(name, ensure_ascii=False)), text(":"), _space(), value), name in required)
            for name, value in members.items()
        ]
        inner = chosen(listed, begin=text(""), joint=seq(_space(), text(","), _space()), end=_space())
        return seq(text("{"), _space(), inner, text("}"))


def _kind(value: Any) -> str:
    names = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _number_fits(value: Any, kinds: list[Any]) -> bool:
    return type(value) is int and "number" in kinds


class _CannotFollow(Exception):
    """What a schema asks is not supported, or cannot be."""


def _refused(at: str, why: str) -> _CannotFollow:
    return _CannotFollow(f"at {at}, {why}")
