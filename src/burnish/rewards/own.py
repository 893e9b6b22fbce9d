"""A user's own function as a reward: which of three forms it has is read from its parameters.

    def f(sample) -> float                                   each sample by itself
    def f(samples) -> list[float | None]                     the batch, as RewardSamples
    def f(prompts, completions, **columns) -> list[...]      the batch, as lists (the form that TRL uses)

Each may be `async def`.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from burnish.errors import BurnishError
from burnish.registry import did_you_mean
from burnish.rewards.records import Call, RewardFunction, RewardSample, Unanswered
from burnish.user_code import load_object, raised

_AT = "reward_funcs"
_LISTS = ("prompts", "completions", "completion_ids")
_FORMS = "write f(sample), f(samples) or f(prompts, completions, **columns)"
FORMATS = ("text", "messages")


def own_function(spec: str, params: dict[str, Any]) -> RewardFunction:
    """The function that `module:name` or `file.py:name` names.

    Args:
        params: passed to it by name with each call; `format` (text or messages) is ours, for the form with lists,
            unless the function has a parameter of this name.
    Raises:
        BurnishError: there is no such function, it has none of the forms, or it takes no such parameter.
    """
    function = load_object(spec, _AT)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise BurnishError(f"the parameters of {spec} cannot be read", at=_AT, fix="wrap it in a function") from error
    if inspect.isclass(function):
        raise BurnishError(f"{spec} is a class, not a function", at=_AT, fix=_FORMS)
    parameters = signature.parameters
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    name = spec.rpartition(":")[2]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    options = dict(params)
    columns: tuple[str, ...] = ()
    ask: Any
    if "completions" in parameters or "prompts" in parameters:
        chosen = options.pop("format", None) if "format" not in parameters else None
        ask = _with_lists(function, parameters, options, takes_any, _format(chosen, parameters, spec))
        columns = tuple(
            key for key, one in parameters.items()
            if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
            and key not in _LISTS and key not in options
        )  # fmt: skip
        single = False
    else:
        ask, single = _with_samples(function, parameters, options, spec)
    for key in options:
        if key not in parameters and not takes_any:
            raise BurnishError(f"{spec} takes no parameter '{key}'", at=_AT, fix=did_you_mean(key, parameters))
    run: Any
    if single:
        run = _each_async(ask) if is_async else _each(ask)
    else:
        run = _batch_async(name, ask) if is_async else _batch(name, ask)
    return RewardFunction(run, name=name, columns=columns, is_async=is_async)


def _with_samples(
    function: Any, parameters: Any, options: dict[str, Any], spec: str
) -> tuple[Callable[..., Any], bool]:
    """What is called with one sample or with all, and whether it is one."""
    free = [
        key for key, one in parameters.items()
        if one.default is one.empty and key not in options
        and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    named = [key for key, one in parameters.items() if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    missing = [key for key in named if key not in options]
    if len(free) != 1 or missing:
        raise BurnishError(f"the parameters of {spec} fit no form: {', '.join(parameters)}", at=_AT, fix=_FORMS)

    def ask(given: Any) -> Any:
        return function(given, **options)

    return ask, free[0] != "samples"


def _with_lists(
    function: Any, parameters: Any, options: dict[str, Any], takes_any: bool, form: str
) -> Callable[[Sequence[RewardSample]], Any]:
    """What is called with lists by name: prompts, completions, completion_ids and every column."""

    def ask(samples: Sequence[RewardSample]) -> Any:
        keys = dict.fromkeys(key for sample in samples for key in sample.reference)
        columns = {key: [sample.reference.get(key) for sample in samples] for key in keys}
        lists = {
            **columns,
            "prompts": [_prompt(sample, form) for sample in samples],
            "completions": [_completion(sample, form) for sample in samples],
            "completion_ids": [list(sample.token_ids) for sample in samples],
        }
        wanted = {key: value for key, value in lists.items() if takes_any or key in parameters}
        return function(**{**wanted, **options})

    return ask


def _format(chosen: Any, parameters: Any, spec: str) -> str:
    """Whether prompts and completions are texts or lists of messages: as is said, else as the function's hint says."""
    if chosen is not None and chosen not in FORMATS:
        raise BurnishError(f"format of {spec} must be text or messages, not {chosen!r}", at=_AT)
    if chosen is not None:
        return str(chosen)
    hint = parameters["completions"].annotation if "completions" in parameters else ""
    return "messages" if "dict" in str(hint).lower() or "list[list" in str(hint).lower() else "text"


def _prompt(sample: RewardSample, form: str) -> Any:
    turns = sample.prompt.turns
    if form == "messages":
        return [{"role": turn.role, "content": turn.content} for turn in turns]
    return turns[-1].content if turns else ""


def _completion(sample: RewardSample, form: str) -> Any:
    return [{"role": "assistant", "content": sample.completion}] if form == "messages" else sample.completion


def _each(ask: Callable[[RewardSample], Any]) -> Callable[[Call], None]:
    def run(call: Call) -> None:
        for place, sample in enumerate(call.samples):
            if time.monotonic() > call.deadline:
                return
            try:
                call.answers[place] = ask(sample)
            except Exception as error:  # noqa: BLE001 - a user's function may raise anything; told with the sample
                call.answers[place] = _failed(error)

    return run


def _each_async(ask: Callable[[RewardSample], Awaitable[Any]]) -> Callable[[Call], Any]:
    async def one(call: Call, place: int) -> None:
        try:
            call.answers[place] = await ask(call.samples[place])
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything; told with the sample
            call.answers[place] = _failed(error)

    async def run(call: Call) -> None:
        await asyncio.gather(*(one(call, place) for place in range(len(call.samples))))

    return run


def _failed(error: Exception) -> Unanswered:
    if isinstance(error, BurnishError | MemoryError):
        raise error
    return Unanswered(raised(error))


def _batch(name: str, ask: Callable[[Sequence[RewardSample]], Any]) -> Callable[[Call], None]:
    def run(call: Call) -> None:
        call.answers[:] = _listed(name, ask(call.samples), len(call.samples))

    return run


def _batch_async(name: str, ask: Callable[[Sequence[RewardSample]], Awaitable[Any]]) -> Callable[[Call], Any]:
    async def run(call: Call) -> None:
        call.answers[:] = _listed(name, await ask(call.samples), len(call.samples))

    return run


def _listed(name: str, found: Any, count: int) -> list[Any]:
    """What a function returned for a batch, as a list of the right length."""
    fix = "return a list with one number, or None, for each sample"
    if hasattr(found, "tolist"):  # an array or a tensor
        found = found.tolist()
    if not isinstance(found, list | tuple):
        what = f"reward '{name}' answered {type(found).__name__} for a batch, not a list"
        raise BurnishError(what, at=_AT, fix=f"{fix}; a function of one sample has the form f(sample)")
    if len(found) != count:
        raise BurnishError(f"reward '{name}' gave {len(found)} answers for {count} samples", at=_AT, fix=fix)
    return list(found)
