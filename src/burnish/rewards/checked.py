"""Rewards that read what a model wrote with machinery that can get stuck: patterns, mathematics, schemas.

A pattern that backtracks, or `9^{9^{9^9}}`, holds Python up in a way that no thread can be timed out of. So these run
in a child process, which is ended after `ITEM_S` on one answer and started anew for the next.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError
from burnish.rewards.plain import reference_text
from burnish.rewards.records import PENDING, Call, RewardFunction, RewardSample, Surroundings, Unanswered

_AT = "reward_funcs"
ITEM_S = 5.0
"""Seconds for one answer."""
MARK = "####"
_NUMBER = re.compile(r"\$?\s*([-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)\s*\.?")


def regex_format(around: Surroundings, *, pattern: str, full: bool = False) -> RewardFunction:
    """1 where the pattern is in the answer (with `full`: is all of it), else 0; `.` matches line ends too."""
    try:
        re.compile(pattern, re.DOTALL)
    except re.error as error:
        fix = "write it in single quotes, and a backslash before . ( ) [ ] that mean themselves"
        raise BurnishError(f"'{pattern}' is no pattern: {error}", at=f"{_AT}: regex_format", fix=fix) from error
    return _in_child({"kind": "regex", "pattern": pattern, "full": full}, lambda sample: [sample.completion])


def math_equal(around: Surroundings, *, column: str = "answer", strict: bool = False) -> RewardFunction:
    r"""1 where the answer means the same as the reference, mathematically; 0 where it does not, or is none.

    What stands behind the last `####` counts, as in GSM8K, else what math-verify finds: `\boxed{}` first, then other
    formulas and numbers. With `strict`, only the first two do.
    """

    def question(sample: RewardSample) -> Any:
        wanted = reference_text(sample, column)
        if isinstance(wanted, Unanswered):
            return wanted
        ours, theirs = final_answer(sample.completion), final_answer(wanted)
        if ours is None and strict and r"\boxed" not in sample.completion:
            return 0.0
        ours, theirs = sample.completion if ours is None else ours, wanted if theirs is None else theirs
        numbers = plain_number(ours), plain_number(theirs)
        if None not in numbers:
            return float(numbers[0] == numbers[1])
        return [theirs, ours] if ours.strip() else 0.0

    made = _in_child({"kind": "maths"}, question)
    return RewardFunction(made.run, columns=(column,), close=made.close)


def json_schema(
    around: Surroundings, *, schema: dict[str, Any] | str | None = None, column: str | None = None
) -> RewardFunction:
    """1 where the answer is JSON that a schema allows, else 0; a ```json fence around it is taken off.

    `schema` is a schema, or the path of a JSON file with one; `column` names a column that holds one for each row.
    """
    import jsonschema

    if (schema is None) == (column is None):
        what = "the reward json_schema needs either 'schema' or 'column'"
        raise BurnishError(what, at=_AT, fix="write {name: json_schema, schema: person.json}")
    fixed: Any = _read_schema(Path(schema).expanduser()) if isinstance(schema, str) else schema
    if fixed is not None:
        try:
            jsonschema.validators.validator_for(fixed).check_schema(fixed)
        except jsonschema.SchemaError as error:
            place = ".".join(map(str, error.absolute_path)) or "its top"
            what = f"this is no JSON schema: {error.message[:200]}"
            raise BurnishError(what, at=f"{_AT}: json_schema, {place}", fix="see json-schema.org") from error

    def question(sample: RewardSample) -> Any:
        if column is None:
            return [sample.completion]
        own = sample.reference.get(column)
        if own is None:
            return Unanswered(f"needs the column '{column}', which is empty here")
        return [sample.completion, own]

    made = _in_child({"kind": "schema", "schema": fixed}, question)
    return RewardFunction(made.run, columns=() if column is None else (column,), close=made.close)


def _read_schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BurnishError(
            f"the schema {path} cannot be read: {error.strerror}", at=f"{_AT}: json_schema",
            fix="paths are relative to the current folder",
        ) from error  # fmt: skip
    except ValueError as error:
        raise BurnishError(f"{path} is not JSON: {error}", at=f"{_AT}: json_schema", fix="mend that file") from error


def final_answer(text: str) -> str | None:
    """What stands on the line behind the last `####`; None where there is no such mark."""
    _, mark, behind = text.rpartition(MARK)
    return behind.strip().partition("\n")[0].strip() if mark else None


def plain_number(text: str) -> Decimal | None:
    """A number as people write it, such as `$1,234.50`; None for anything else."""
    found = _NUMBER.fullmatch(text.strip())
    digits = found[1].replace(",", "") if found else ""
    return Decimal(digits) if any(each.isdigit() for each in digits) and len(digits) < 100 else None


def _in_child(options: dict[str, Any], question: Callable[[RewardSample], Any]) -> RewardFunction:
    """A function that asks a child process.

    Args:
        question: a sample → what the child is asked, a list; or the answer itself, where that needs no child.
    """
    child = Child(options)

    def run(call: Call) -> None:
        for place, sample in enumerate(call.samples):
            asked = question(sample)
            answer = child.ask(asked, call.deadline) if isinstance(asked, list) else asked
            if answer is PENDING:
                return
            call.answers[place] = answer

    return RewardFunction(run, close=child.close)


class Child:
    """A process that answers one question at a time, in lines of JSON; started when it is first asked."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def ask(self, question: list[Any], deadline: float) -> Any:
        """The answer to a question; PENDING where time is up."""
        with self._lock:
            if self._process is None:
                self._process = self._started()
                if self._exchange(self.options, deadline - time.monotonic()) is None:
                    return self._ended(deadline, "could not be started")
            begun = time.monotonic()
            limit = min(ITEM_S, deadline - begun)
            found = self._exchange({"ask": question, "limit_s": limit}, limit)
            if found is None:
                late = time.monotonic() - begun >= limit
                too_long = f"took longer than {ITEM_S:g} s on this answer"
                return self._ended(deadline, too_long if late else "lost the process that reads the answers")
        return Unanswered(found["why"]) if "why" in found else found["value"]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "burnish.rewards.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            start_new_session=True,  # Ctrl-C is for the run, which judges the answers it has before it stops
        )

    def _exchange(self, line: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
        """Send a line and wait for one; None where the process ended, or did not answer in time and was ended."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(max(0.0, limit_s), process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            return None
        finally:
            timer.cancel()
        return json.loads(answer) if answer.endswith("\n") else None

    def _ended(self, deadline: float, why: str) -> Unanswered:
        self.close()
        return PENDING if time.monotonic() >= deadline else Unanswered(why)
