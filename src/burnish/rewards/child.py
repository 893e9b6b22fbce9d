"""The child process of `checked.py`: reads questions and writes answers, a line of JSON each.

`python -m burnish.rewards.child`; the first line says what the questions will be.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from typing import Any


class NoAnswer(Exception):
    """There is no answer to a question, and why."""


def main() -> None:
    """Answer until the questions end."""
    answer = _KINDS[(options := json.loads(sys.stdin.readline()))["kind"]](options)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        _end_after(asked["limit_s"] + 1)
        try:
            found: dict[str, Any] = {"value": answer(*asked["ask"])}
        except NoAnswer as error:
            found = {"why": str(error)}
        _end_after(0)
        print(json.dumps(found), flush=True)


def _end_after(seconds: float) -> None:
    """Ask the system to end this process, should the one that started it be gone by then."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _regex(options: dict[str, Any]) -> Callable[..., float]:
    pattern = re.compile(options["pattern"], re.DOTALL)
    found = pattern.fullmatch if options["full"] else pattern.search
    return lambda text: float(found(text) is not None)


def _maths(options: dict[str, Any]) -> Callable[..., float]:
    import logging

    from math_verify import parse, verify

    logging.disable()

    def read(text: str) -> Any:
        # Its own time limits work with signals in the main thread only; ours end the process.
        forms = [text]
        if not re.search("[A-Za-z]{3}", re.sub(r"\\[A-Za-z]+", "", text)):  # words would become products of letters
            marked = any(mark in text for mark in ("$", r"\boxed", r"\(", r"\["))
            forms.insert(0 if "\\" in text and not marked else 1, f"${text}$")
        return next((found for form in forms if (found := parse(form, parsing_timeout=None))), [])

    def equal(wanted: str, answer: str) -> float:
        gold = read(wanted)
        if not gold:
            raise NoAnswer(f"cannot read the reference {wanted[:40]!r} as mathematics")
        found = read(answer)
        return float(bool(found) and verify(gold, found, timeout_seconds=None))

    return equal


def _schema(options: dict[str, Any]) -> Callable[..., float]:
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    def valid(text: str, schema: Any = options["schema"]) -> float:
        try:
            value = json.loads(unfenced(text), parse_constant=_refused)
        except (ValueError, RecursionError):
            return 0.0
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise NoAnswer(f"its schema is not JSON: {error}") from error
        kind = jsonschema.validators.validator_for(schema)
        try:
            kind.check_schema(schema)
            return float(kind(schema, registry=Registry()).is_valid(value))  # nothing is fetched
        except jsonschema.SchemaError as error:
            raise NoAnswer(f"its schema is none: {error.message[:100]}") from error
        except Unresolvable as error:
            raise NoAnswer(f"its schema refers to something that is not in it: {error.ref}") from error

    return valid


def unfenced(text: str) -> str:
    """The text inside a fence of backticks that is all of an answer, else the answer."""
    found = re.fullmatch(r"\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*", text, re.DOTALL)
    return found[1] if found else text


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_KINDS: dict[str, Callable[[dict[str, Any]], Callable[..., float]]] = {
    "regex": _regex,
    "maths": _maths,
    "schema": _schema,
}

if __name__ == "__main__":
    main()
