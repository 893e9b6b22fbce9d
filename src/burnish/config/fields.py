"""The kinds of values a setting can hold, and how loosely written ones become exact.

A YAML file says `no` for a strategy, `1e-4` for a rate and `q_proj,v_proj` for a list. Each kind below turns
what people write into one exact Python value, or refuses it; `explain.py` puts the refusal into words.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Kind:
    """What a setting holds: a short name for the code, and words for messages and the reference."""

    name: str
    expects: str


FLAG = Kind("flag", "true or false")
WHOLE = Kind("whole", "a whole number")
NUMBER = Kind("number", "a number")
TEXT = Kind("text", "text")
PATH = Kind("path", "a path")
NAMES = Kind("names", "a list of names, or names with commas between them")
PATHS = Kind("paths", "a list of paths, or paths with commas between them")
NUMBERS = Kind("numbers", "a list of numbers, or numbers with commas between them")
REWARDS = Kind("rewards", "a list of rewards: each a name, or a mapping with a name and parameters")
STEPS = Kind("steps", "a whole number of steps, or a share of the run below 1")
CHOICE = Kind("choice", "one of a few words")
TABLE = Kind("table", "a mapping of names to values")
CONFIG = Kind("config", "the path of a JSON file, or a mapping")
OPTIONS = Kind("options", "name=value pairs with commas between them, or a mapping of names to values")
RESUME = Kind("resume", "true, false or the path of a checkpoint")
ANY = Kind("any", "any value")

TEXT_LIKE = {"text", "path", "names", "paths", "numbers", "resume", "config", "rewards"}
"""Kinds that take a number as it was written (`run_name: 007` is the text "007")."""

_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _refuse(kind: Kind) -> PydanticCustomError:
    return PydanticCustomError("burnish_kind", "not {expects}", {"expects": kind.expects})


def as_flag(value: Any) -> bool:
    """True or false from a bool, 0 or 1, or one of the words true, false, yes, no, on, off."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str) and str(value).strip().lower() in _WORDS:
        return _WORDS[str(value).strip().lower()]
    raise _refuse(FLAG)


def as_whole(value: Any) -> int:
    """A whole number from an int, a float without a fraction, or text that reads so; a bool is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, str):
            value = float(value) if any(mark in value for mark in ".eE") else int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    except ValueError:
        pass
    raise _refuse(WHOLE)


def as_number(value: Any) -> float:
    """A float from an int, a float or text that reads as one, such as `1e-4`; a bool is refused."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise _refuse(NUMBER)


def as_steps(value: Any) -> int | float:
    """A whole number from 1 on, or a share of all steps between 0 and 1."""
    number = as_number(value)
    if 0 < number < 1:
        return number
    if number >= 1 and number.is_integer():
        return int(number)
    raise _refuse(STEPS)


def as_text(value: Any) -> str:
    """Text as it is; anything else is refused."""
    if isinstance(value, str):
        return value
    raise _refuse(TEXT)


def as_path(value: Any) -> str:
    """A path as it is given, with a leading `~` replaced by the user's folder."""
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and "\0" not in path:
            return os.path.expanduser(path) if path.startswith("~") else path
    raise _refuse(PATH)


def _as_list(value: Any, kind: Kind, one: Callable[[Any], str]) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    elif isinstance(value, os.PathLike):
        value = [value]
    if not isinstance(value, list | tuple):
        raise _refuse(kind)
    try:
        parts = [one(part) for part in value]
    except PydanticCustomError as wrong:
        raise _refuse(kind) from wrong
    return tuple(part.strip() for part in parts if part.strip())


def as_names(value: Any) -> tuple[str, ...]:
    """Names from a list, or from text with commas between them; empty names fall away."""
    return _as_list(value, NAMES, as_text)


def as_paths(value: Any) -> tuple[str, ...]:
    """Paths from a list, or from text with commas between them."""
    return tuple(as_path(path) for path in _as_list(value, PATHS, as_path))


def as_numbers(value: Any) -> tuple[float, ...]:
    """Numbers from a list, or from text with commas between them."""
    if isinstance(value, list | tuple):
        return tuple(as_number(part) for part in value)
    return tuple(as_number(part) for part in _as_list(value, NUMBERS, as_text))


def as_rewards(value: Any) -> tuple[str | dict[str, Any], ...]:
    """Rewards from a list or a single one; names may stand in text with commas between them."""
    if isinstance(value, str):
        return as_names(value)
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list | tuple):
        raise _refuse(REWARDS)
    for entry in entries:
        if not (isinstance(entry, str) or (isinstance(entry, Mapping) and isinstance(entry.get("name"), str))):
            raise _refuse(REWARDS)
    return tuple(entry if isinstance(entry, str) else _as_json(entry) for entry in entries)


def as_word(value: Any) -> Any:
    """A choice; YAML reads an unquoted `no` as false, which becomes the word again."""
    return "no" if value is False else value


def as_table(value: Any) -> dict[str, Any]:
    """A flat mapping from names to plain values."""
    if isinstance(value, Mapping) and all(isinstance(key, str) and _is_plain(item) for key, item in value.items()):
        return dict(value)
    raise _refuse(TABLE)


def as_options(value: Any) -> dict[str, Any]:
    """A flat mapping, or `name=value` pairs with commas between them, each value a flag, a number or text."""
    if not isinstance(value, str):
        return as_table(value)
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() and given.strip() for name, _, given in pairs):
        raise _refuse(OPTIONS)
    return as_table({name.strip(): _plain(given.strip()) for name, _, given in pairs})


def _plain(written: str) -> Any:
    """A flag, a number or text from how it is written."""
    if written.lower() in ("true", "false"):
        return written.lower() == "true"
    for read in (int, float):
        try:
            return read(written)
        except ValueError:
            continue
    return written


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def as_config(value: Any) -> dict[str, Any] | str:
    """A configuration of another tool: the mapping itself, of any depth, or the path of the file that holds it."""
    if isinstance(value, Mapping):
        return _as_json(value)
    return as_path(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if _is_plain(value):
        return value
    raise _refuse(CONFIG)


def as_resume(value: Any) -> bool | str:
    """Whether to resume, or the checkpoint to resume from."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    return as_path(value)


READERS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "flag": as_flag,
        "whole": as_whole,
        "number": as_number,
        "steps": as_steps,
        "text": as_text,
        "path": as_path,
        "names": as_names,
        "numbers": as_numbers,
        "paths": as_paths,
        "rewards": as_rewards,
        "table": as_table,
        "config": as_config,
        "options": as_options,
        "resume": as_resume,
    }
)
"""The name of a kind → what makes an exact value of it, or raises PydanticCustomError."""

Flag = Annotated[bool, FLAG, BeforeValidator(as_flag)]
Whole = Annotated[int, WHOLE, BeforeValidator(as_whole)]
Number = Annotated[float, NUMBER, BeforeValidator(as_number)]
Steps = Annotated[int | float, STEPS, BeforeValidator(as_steps)]
Text = Annotated[str, TEXT, BeforeValidator(as_text)]
PathText = Annotated[str, PATH, BeforeValidator(as_path)]
Names = Annotated[tuple[str, ...], NAMES, BeforeValidator(as_names)]
Numbers = Annotated[tuple[float, ...], NUMBERS, BeforeValidator(as_numbers)]
Paths = Annotated[tuple[str, ...], PATHS, BeforeValidator(as_paths)]
RewardList = Annotated[tuple[str | dict[str, Any], ...], REWARDS, BeforeValidator(as_rewards)]
Options = Annotated[dict[str, Any], OPTIONS, BeforeValidator(as_options)]
Table = Annotated[dict[str, Any], TABLE, BeforeValidator(as_table)]
Config = Annotated[dict[str, Any] | str, CONFIG, BeforeValidator(as_config)]
Resume = Annotated[bool | str, RESUME, BeforeValidator(as_resume)]


class RoomSettings(BaseModel):
    """The settings of one room: frozen, unknown names refused, numbers finite."""

    model_config = ConfigDict(
        frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def setting(
    default: Any,
    description: str,
    *,
    derived: str | None = None,
    factory: Callable[[dict[str, Any]], Any] | None = None,
    secret: bool = False,
    **limits: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: its value when the user says nothing; unused when `factory` is given.
        description: one plain sentence with units, shown in the reference and by editors.
        derived: for a default that follows other settings or the machine, the words that say how.
        factory: computes such a default from the settings that are declared above it in the same room.
        secret: the value is never printed nor written to a run folder.
        limits: `ge`, `gt`, `le`, `lt`: the allowed range.
    """
    extra: dict[str, Any] = {"derived": derived, "secret": secret}
    common: dict[str, Any] = {
        "description": description,
        "json_schema_extra": extra,
        "repr": not secret,
        **limits,
    }
    if factory is not None:
        return Field(default_factory=factory, **common)
    return Field(default=default, **common)
