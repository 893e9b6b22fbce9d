"""Rendering a chat template once with symbols in the place of people's words, to learn how it renders all such words.

A template is run with contents that are no strings: they can be written, joined, stripped and asked whether they are
empty or hold a text, and every answer they give is remembered as a condition. What comes out is a list of literals and
of places where a content stands. That is how the template renders every conversation of the same roles whose contents
give the same answers. Whatever else a template does with a content fails here, and is left to the real rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.nativetypes import NativeCodeGenerator

from burnish.template.render import Renderer, sandbox

_SAME = ("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "lower", "upper")
"""Methods of text that give a text; with constant arguments they can be remembered."""
_FILTERS = ("default", "d", "string", "trim")
_TESTS = ("defined", "undefined", "none", "boolean", "number", "integer", "float", "true", "false", "mapping")


class NotSymbolic(BaseException):
    """The template does something with a content that a symbol cannot answer.

    Not an Exception: Jinja swallows some of those and goes on with an undefined value.
    """


@dataclass(frozen=True, slots=True)
class Content:
    """The words of one turn."""

    turn: int


@dataclass(frozen=True, slots=True)
class Changed:
    """What a method of `str` makes of some parts: `trim` and its like."""

    method: str
    arguments: tuple[Any, ...]
    parts: Parts


Part = str | Content | Changed
Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """An answer that a content gave while the template ran: `method` of `str` with `argument`, and the result."""

    method: str
    argument: Any
    parts: Parts
    result: bool

    def holds(self, contents: Sequence[str]) -> bool:
        return _ask(self.method, value_of(self.parts, contents), self.argument) == self.result


def value_of(parts: Parts, contents: Sequence[str]) -> str:
    """The text of parts for given contents."""
    return "".join([part if type(part) is str else _value(part, contents) for part in parts])


def _value(part: Part, contents: Sequence[str]) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Content):
        return contents[part.turn]
    found = getattr(value_of(part.parts, contents), part.method)(*part.arguments)
    assert isinstance(found, str)
    return found


def _ask(method: str, value: str, argument: Any) -> bool:
    return bool(value) if method == "__bool__" else bool(getattr(value, method)(argument))


@dataclass(slots=True)
class _Run:
    """One rendering: the true contents, which decide the way, and the conditions met on it."""

    contents: Sequence[str]
    conditions: dict[Condition, None] = field(default_factory=dict)


class Symbol:
    """A text of which only the parts are known to the template."""

    __slots__ = ("_parts", "_run")

    def __init__(self, run: _Run, parts: Parts) -> None:
        self._run, self._parts = run, parts

    def _asked(self, method: str, argument: Any = None) -> bool:
        if argument is not None and not _plain(argument):
            raise NotSymbolic(method)
        result = _ask(method, value_of(self._parts, self._run.contents), argument)
        self._run.conditions[Condition(method, argument, self._parts, result)] = None
        return result

    def __bool__(self) -> bool:
        return self._asked("__bool__")

    def __contains__(self, text: Any) -> bool:
        return self._asked("__contains__", _text(text))

    def __eq__(self, other: object) -> bool:
        return self._asked("__eq__", other) if isinstance(other, str) else self._unequal(other)

    def _unequal(self, other: object) -> bool:
        if isinstance(other, Symbol):
            raise NotSymbolic("==")
        return False

    def startswith(self, text: Any) -> bool:
        return self._asked("startswith", text if _plain(text) else _text(text))

    def endswith(self, text: Any) -> bool:
        return self._asked("endswith", text if _plain(text) else _text(text))

    def __add__(self, other: Any) -> Symbol:
        return Symbol(self._run, (*self._parts, *_parts(other)))

    def __radd__(self, other: Any) -> Symbol:
        return Symbol(self._run, (*_parts(other), *self._parts))

    def _changed(self, method: str, *arguments: Any) -> Symbol:
        if not all(_plain(each) or isinstance(each, int) for each in arguments if each is not None):
            raise NotSymbolic(method)
        return Symbol(self._run, (Changed(method, arguments, self._parts),))

    def __getattr__(self, name: str) -> Any:
        if name not in _SAME:
            raise AttributeError(name)
        return lambda *arguments: self._changed(name, *arguments)

    def _refuse(self, *_: Any) -> Any:
        raise NotSymbolic("looked at in a way that a symbol has no answer to")

    __getitem__ = __str__ = __hash__ = __index__ = __len__ = __iter__ = _refuse


def _plain(value: Any) -> bool:
    return type(value) is str or (type(value) is tuple and all(type(each) is str for each in value))


def _text(value: Any) -> str:
    if type(value) is not str:
        raise NotSymbolic("not a text")
    return value


def _parts(value: Any) -> Parts:
    if isinstance(value, Symbol):
        return value._parts
    return (_text(value),)


def _joined(values: Iterable[Any]) -> Any:
    """What Jinja joins, as a symbol where one is among it."""
    run: _Run | None = None
    parts: list[Part] = []
    for value in values:
        if isinstance(value, Symbol):
            run = value._run
            parts += value._parts
        else:
            parts.append(str(value))
    return "".join(part for part in parts if isinstance(part, str)) if run is None else Symbol(run, tuple(parts))


class _Generator(NativeCodeGenerator):
    """Leaves what is written as it is, so that it is `_joined` that makes text of it."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Any) -> None:
        self.write("environment.concat((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


def _refusing(known: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of Jinja's that no symbol may enter."""
    from functools import wraps

    @wraps(known)  # Jinja reads from the function what it wants passed
    def refuse(*arguments: Any, **named: Any) -> Any:
        if any(isinstance(each, Symbol) for each in (*arguments, *named.values())):
            raise NotSymbolic(known.__name__)
        return known(*arguments, **named)

    return refuse


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    environment = sandbox()
    environment.code_generator_class = _Generator
    environment.concat = _joined  # type: ignore[method-assign]
    known: dict[str, Any] = environment.filters
    trim = known["trim"]
    filters = {name: each if name in _FILTERS else _refusing(each) for name, each in known.items()}
    filters["trim"] = lambda value, *rest: value.strip(*rest) if isinstance(value, Symbol) else trim(value, *rest)
    filters["string"] = lambda value: value if isinstance(value, Symbol) else str(value)
    asked: dict[str, Any] = environment.tests
    tests = {name: each if name in _TESTS else _refusing(each) for name, each in asked.items()}
    for name in ("string", "iterable", "sequence"):
        tests[name] = _or_symbol(asked[name])
    environment.filters, environment.tests = filters, tests
    return environment.from_string(source)


def _or_symbol(known: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Symbol) or known(value)


def render_symbols(
    renderer: Renderer, roles: Sequence[str], contents: Sequence[str], *, generate: bool
) -> tuple[Parts, tuple[Condition, ...]]:
    """How a template renders turns of these roles: the parts of the text, and what contents must answer for it.

    Args:
        contents: those of one such conversation; they decide the way where the template looks at them.
    Returns:
        Parts in which two literals never follow each other, and the conditions.
    Raises:
        NotSymbolic: the template looks at a content in another way, reads the clock, or refuses the conversation.
    """
    run = _Run(contents)
    messages = [{"role": role, "content": Symbol(run, (Content(turn),))} for turn, role in enumerate(roles)]

    def clock(_: str) -> str:
        if renderer.today is None:
            raise NotSymbolic("strftime_now")
        return renderer.today.strftime(_)

    try:
        seen = renderer.values(messages, None, generate=generate, clock=clock)
        written = _compiled(renderer.source).render(seen)
        return _merged(_parts(written)), tuple(run.conditions)
    except Exception as error:  # whatever a template may raise when its contents are no strings
        raise NotSymbolic(str(error)) from error


def _merged(parts: Parts) -> Parts:
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)
