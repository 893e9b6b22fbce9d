"""From what stands in a settings file to reward functions, all checked before anything is trained."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.data.records import Conversation
from burnish.errors import BurnishError
from burnish.registry import LazyTable, did_you_mean
from burnish.rewards.own import own_function
from burnish.rewards.records import RewardFunction, Surroundings
from burnish.rewards.run import AT, Rewards

REWARDS = LazyTable("reward")
REWARDS.add("exact_match", "burnish.rewards.plain:exact_match")
REWARDS.add("length", "burnish.rewards.plain:length")
REWARDS.add("regex_format", "burnish.rewards.checked:regex_format")
REWARDS.add("math_equal", "burnish.rewards.checked:math_equal")
REWARDS.add("json_schema", "burnish.rewards.checked:json_schema")
REWARDS.add("llm_judge", "burnish.rewards.judge:llm_judge")
REWARDS.add("http_scorer", "burnish.rewards.scorer:http_scorer")

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}


def build_rewards(
    funcs: Sequence[str | Mapping[str, Any]],
    weights: Sequence[float] | None = None,
    timeout_s: float = 60.0,
    *,
    render: Callable[[Conversation, str], str] | None = None,
) -> Rewards:
    """Reward functions by their names.

    Args:
        funcs: each a name, `module:function`, `file.py:function`, or a mapping with `name`, perhaps `weight`, and
            the function's parameters.
        weights: one a function; None: those of the mappings, else 1.
        timeout_s: seconds that each function has for a batch.
        render: (prompt, completion) → the text that `http_scorer` sends; None: roles and words, line by line.
    Raises:
        BurnishError: an unknown name, file, function or parameter, a pattern or schema that is none, or another
            number of weights than functions.
    """
    if not funcs:
        raise BurnishError("there is no reward", at=AT, fix="name some: reward_funcs: [math_equal, length]")
    around = Surroundings(timeout_s, render or plain_text)
    functions: list[RewardFunction] = []
    given: list[float] = []
    for entry in funcs:
        name, params, weight = _parts(entry)
        function = _make(name, params, around)
        functions.append(replace(function, name=_free(function.name or name, [one.name for one in functions])))
        given.append(weight)
    if weights is not None and len(weights) != len(functions):
        raise BurnishError(
            f"{len(functions)} rewards and {len(weights)} weights", at="reward_weights", fix="write one weight a reward"
        )
    return Rewards(functions, given if weights is None else [float(weight) for weight in weights], timeout_s)


def plain_text(prompt: Conversation, completion: str) -> str:
    """A conversation and its answer as text, a line for each turn."""
    turns = [(turn.role, turn.content) for turn in prompt.turns]
    return "\n".join(f"{role}: {text}" for role, text in [*turns, ("assistant", completion)])


def _parts(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any], float]:
    """Name, parameters and weight of an entry."""
    if isinstance(entry, str):
        return entry, {}, 1.0
    params = dict(entry)
    name, weight = params.pop("name", None), params.pop("weight", 1.0)
    if not isinstance(name, str):
        raise BurnishError("a reward has no name", at=AT, fix="write {name: regex_format, pattern: …}")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BurnishError(f"the weight of '{name}' is no number: {weight!r}", at=AT, fix="write weight: 0.5")
    return name, params, float(weight)


def _make(name: str, params: dict[str, Any], around: Surroundings) -> RewardFunction:
    if ":" in name:
        return own_function(name, params)
    if name not in REWARDS and name.endswith(".py"):
        raise BurnishError(f"'{name}' names a file and no function", at=AT, fix=f"write {name}:my_function")
    if name not in REWARDS:
        raise BurnishError(f"unknown reward '{name}'", at=AT, fix=did_you_mean(name, REWARDS))
    factory = REWARDS.get(name)
    hints = typing.get_type_hints(factory)
    known = {key: one for key, one in inspect.signature(factory).parameters.items() if one.kind is one.KEYWORD_ONLY}
    for key, value in params.items():
        if key not in known:
            raise BurnishError(f"the reward {name} takes no '{key}'", at=AT, fix=did_you_mean(key, [*known, "weight"]))
        if not _fits(value, hints[key]):
            raise BurnishError(f"'{key}' of the reward {name} must be {_said(hints[key])}, not {value!r}", at=AT)
    for key, one in known.items():
        if one.default is one.empty and key not in params:
            raise BurnishError(
                f"the reward {name} needs '{key}'", at=AT, fix=f"write {{name: {name}, {key}: …}} instead of the name"
            )
    made: RewardFunction = factory(around, **params)
    return made


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a hint: `int | None` → (int, NoneType)."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)


def _fits(value: Any, hint: Any) -> bool:
    kinds = _kinds(hint)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _said(hint: Any) -> str:
    return " or ".join(_WORDS[kind] for kind in _kinds(hint) if kind in _WORDS)


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, with a number behind it where another function has it."""
    return name if name not in taken else next(f"{name}_{n}" for n in range(2, 999) if f"{name}_{n}" not in taken)
