"""Words for what is wrong with one setting: an unknown name, a wrong value, a thing Burnish does not have."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from burnish.config.catalogue import (
    ENVIRONMENT,
    LATER_VALUES,
    OLDER_NAMES,
    OTHER_TOOLS,
    Entry,
    catalogue,
    choices_of,
    find,
)
from burnish.config.fields import (
    CHOICE,
    CONFIG,
    FLAG,
    NAMES,
    NUMBER,
    OPTIONS,
    PATHS,
    RESUME,
    REWARDS,
    STEPS,
    TABLE,
    TEXT,
    WHOLE,
)
from burnish.config.reading import Given, printable
from burnish.errors import BurnishError
from burnish.registry import nearest

_HINTS = {
    FLAG: "write true or false",
    WHOLE: "write a number without a fraction, such as 8",
    STEPS: "write 500, or 0.1 for every tenth of the run",
    NUMBER: "write a number, such as 0.1 or 1e-4",
    TEXT: "put it in quotes",
    NAMES: "write names with commas between them, or a list",
    PATHS: "write paths with commas between them, or a list",
    TABLE: 'write it like {"num_cycles": 2}',
    CONFIG: "write the path of a JSON file, or a mapping",
    OPTIONS: "write it like momentum=0.9,nesterov=true",
    REWARDS: "write [math_equal, {name: length, target: 200}]",
    RESUME: "write true, or the path of a checkpoint folder",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 2


def shown(value: Any) -> str:
    """A value in a message: short, one line, as it would stand in a settings file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return printable(_SHORT.repr(value))
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a very long number"


def unknown_key(given: Given) -> BurnishError:
    """A name that nobody knows, with the name that was probably meant."""
    name = printable(given.written)
    if given.key in ENVIRONMENT:
        what = f"'{name}' is an environment variable, not a setting"
        return BurnishError(what, at=given.at, fix="leave it out here and set it in the shell that starts Burnish")
    if isinstance(given.value, Mapping):
        inside = [str(key) for key in given.value if isinstance(key, str) and find(key)]
        if inside:
            fix = f"move its lines to the left margin: {', '.join(inside[:6])}"
            return BurnishError(f"'{name}' is a section, and settings are flat", at=given.at, fix=fix)
    return BurnishError(f"unknown setting '{name}'", at=given.at, fix=suggestion(given.key))


def suggestion(key: str) -> str:
    """What to write instead of an unknown name: its last part, another tool's word, or the nearest name."""
    last = key.rpartition(".")[2]
    if last != key and find(last):
        return f"settings are flat: did you mean '{last}'?"
    plain = key.replace("-", "_").strip().lower()
    if plain != key and find(plain):
        return f"did you mean '{plain}'?"
    if plain in OTHER_TOOLS:
        return f"did you mean '{OTHER_TOOLS[plain]}'?"
    close = nearest(plain, [*catalogue(), *OLDER_NAMES])
    if close:
        return f"did you mean '{close[0]}'?"
    return "leave it out; `burnish settings` lists all names"


def unsupported_key(entry: Entry, given: Given) -> BurnishError:
    """A name from other tools that asks for something Burnish does not do."""
    yet = " yet" if entry.status == "later" else ""
    return BurnishError(f"Burnish does not support '{entry.key}'{yet}", at=given.at, fix=entry.text)


def wrong_value(entry: Entry, given: Given, error_type: str, read: Any) -> BurnishError:
    """A value that a setting cannot hold: not supported yet, an unknown word, out of range or the wrong type.

    Args:
        error_type: pydantic's code for what is wrong.
        read: the value after the setting's own reading (`no` instead of false).
    """
    key, value = entry.key, given.value
    for form in (value, value[0] if isinstance(value, list | tuple) and len(value) == 1 else value, read):
        if isinstance(form, bool | str) and (key, form) in LATER_VALUES:
            what = f"Burnish does not support '{key}: {shown(form) if isinstance(form, bool) else form}' yet"
            return BurnishError(what, at=given.at, fix=LATER_VALUES[key, form])
    text = "this value" if entry.secret else shown(value)
    if entry.wanted is CHOICE and entry.field is not None:
        words = choices_of(entry.field)
        close = nearest(str(value).lower(), words) if isinstance(value, str) else []
        guess = f"did you mean '{close[0]}'? " if close else ""
        what = f"'{key}' cannot be {text}"
        return BurnishError(what, at=given.at, fix=f"{guess}it takes: {', '.join(words)}")
    span = limits(entry)
    if span and error_type in {"greater_than_equal", "greater_than", "less_than_equal", "less_than"}:
        what = f"'{key}' must be {span}, not {text}"
        return BurnishError(what, at=given.at, fix=_default_hint(entry))
    what = f"'{key}' must be {entry.wanted.expects}, not {text}"
    return BurnishError(what, at=given.at, fix=_HINTS.get(entry.wanted, "write it as text"))


def limits(entry: Entry) -> str:
    """The allowed range in words, such as `at least 0 and below 1`; empty without one."""
    bounds = bounds_of(entry)
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(
        f"{words[name]} {bounds[name]:g}" if bounds[name] < 1e6 else f"{words[name]} {bounds[name]}"
        for name in words
        if name in bounds
    )


def bounds_of(entry: Entry) -> dict[str, Any]:
    """The limits `ge`, `gt`, `le`, `lt` that a supported setting was declared with."""
    marks = entry.field.metadata if entry.field is not None else []
    return {
        name: getattr(mark, name)
        for mark in marks
        for name in ("ge", "gt", "le", "lt")
        if getattr(mark, name, None) is not None
    }


def default_of(entry: Entry) -> str:
    """The default in words: a value as it stands in a file, or how it follows from others."""
    field = entry.field
    if field is None:
        return shown(entry.neutral[0]) if entry.neutral else "null"
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("derived"):
        return str(extra["derived"])
    default = field.get_default()
    if isinstance(default, tuple):
        return ",".join(default) or "none"
    return default if isinstance(default, str) else shown(default)


def _default_hint(entry: Entry) -> str:
    return f"the default is {default_of(entry)}"
