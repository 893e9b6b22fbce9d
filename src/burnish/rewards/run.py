"""Asking reward functions: all at once, each for so long and no longer, and what comes of each answer."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from burnish.errors import BurnishError
from burnish.registry import did_you_mean
from burnish.rewards.records import PENDING, Call, RewardFunction, RewardSample, Scores, Unanswered
from burnish.user_code import raised

AT = "reward_funcs"
LATE_IN_A_ROW = 3
"""Batches in a row that a function may be late for; then it is an error."""
_NAMED = 5
_ENDING_S = 1.0


class Rewards:
    """Reward functions with their weights.

    Args:
        functions: with names of their own.
        weights: one a function.
        timeout_s: seconds that each function has for a batch.
    """

    def __init__(self, functions: Sequence[RewardFunction], weights: Sequence[float], timeout_s: float) -> None:
        self.functions, self.weights, self.timeout_s = tuple(functions), tuple(weights), timeout_s
        self._late = dict.fromkeys(self.names, 0)
        self._loops: dict[str, asyncio.AbstractEventLoop] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The functions' names, as metrics show them."""
        return tuple(function.name for function in self.functions)

    @property
    def counts_tokens(self) -> bool:
        """Whether some function looks at the tokens of an answer."""
        return any(function.counts_tokens for function in self.functions)

    def check_columns(self, present: Collection[str]) -> None:
        """Refuse data that has nothing of what a function needs, before any training.

        Args:
            present: the keys of all rows' references together.
        Raises:
            BurnishError: a function needs a column that no row has.
        """
        for function in self.functions:
            for column in function.columns:
                if column not in present:
                    raise BurnishError(
                        f"reward '{function.name}' needs the column '{column}', which no row has",
                        at=AT,
                        fix=did_you_mean(column, present),
                    )

    def score(self, samples: Sequence[RewardSample]) -> Scores:
        """Ask all functions about all samples at the same time, each in a thread of its own.

        A function that is late is left behind: what it answered until then counts. Its thread cannot be stopped and
        may still run during the next call.

        Raises:
            BurnishError: a function gave something that is no reward, or was late three times in a row.
        """
        running = [
            self._start(function, Call(samples, time.monotonic() + self.timeout_s)) for function in self.functions
        ]
        notes: list[str] = []
        columns = [self._answers(one, notes) for one in running]
        values = [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]
        return Scores(values, [self._total(row) for row in values], notes)

    def close(self) -> None:
        """End child processes and event loops that functions keep."""
        for function in self.functions:
            if function.close is not None:
                function.close()
        for loop in self._loops.values():
            ended = asyncio.run_coroutine_threadsafe(_end_tasks(), loop)
            with suppress(TimeoutError):  # a function may block its loop; its thread does not keep the program alive
                ended.result(_ENDING_S)
            loop.call_soon_threadsafe(loop.stop)
        self._loops.clear()

    def _start(self, function: RewardFunction, call: Call) -> _Running:
        if not function.is_async:
            return _InThread(function, call)
        if function.name not in self._loops:
            # A loop of its own for each function: clients stay tied to the loop that they were first used in, and
            # one that blocks holds up no other.
            loop = self._loops[function.name] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name=f"reward {function.name}", daemon=True).start()
        return _InLoop(function, call, self._loops[function.name])

    def _answers(self, running: _Running, notes: list[str]) -> list[float | None]:
        """Wait for a function; its answers as numbers, and notes about those that are missing."""
        function, call = running.function, running.call
        in_time = running.wait()
        answers = list(call.answers)  # a thread that is left behind goes on writing into its own list
        if in_time and running.error is None and time.monotonic() >= call.deadline:
            # It saw itself that time was up, and ended just before it was asked.
            in_time = not any(one is PENDING for one in answers)
        if isinstance(running.error, BurnishError | MemoryError):
            raise running.error
        pending = PENDING
        if not in_time:
            pending = Unanswered(f"took longer than {self.timeout_s:g} s (reward_timeout)")
        elif running.error is not None:
            pending = Unanswered(raised(running.error))
        self._late[function.name] = 0 if in_time else self._late[function.name] + 1
        if self._late[function.name] == LATE_IN_A_ROW:
            raise BurnishError(
                f"reward '{function.name}' took longer than {self.timeout_s:g} s in {LATE_IN_A_ROW} batches in a row",
                at=AT,
                fix="raise reward_timeout, or make the function faster",
            )
        found: list[float | None] = []
        missing: dict[str, list[RewardSample]] = {}
        for sample, answer in zip(call.samples, answers, strict=True):
            number = _number(function.name, sample, pending if answer is PENDING else answer)
            found.append(None if isinstance(number, Unanswered) else number)
            if isinstance(number, Unanswered):
                missing.setdefault(number.why, []).append(sample)
        notes += [f"{_places(those)}: reward '{function.name}' {why}" for why, those in missing.items()]
        return found

    def _total(self, row: dict[str, float | None]) -> float | None:
        given = [weight * value for weight, value in zip(self.weights, row.values(), strict=True) if value is not None]
        return sum(given) if given else None


class _Running:
    """A call of a function that has begun."""

    def __init__(self, function: RewardFunction, call: Call) -> None:
        self.function, self.call = function, call
        self.error: BaseException | None = None

    def wait(self) -> bool:
        """Whether it ended before its deadline."""
        raise NotImplementedError


class _InThread(_Running):
    """A plain function in a thread of its own, which does not keep the program from ending."""

    def __init__(self, function: RewardFunction, call: Call) -> None:
        super().__init__(function, call)
        self.thread = threading.Thread(target=self._run, name=f"reward {function.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.function.run(self.call)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told by `Rewards.score`, with the samples
            self.error = error

    def wait(self) -> bool:
        self.thread.join(max(0.0, self.call.deadline - time.monotonic()))
        return not self.thread.is_alive()


class _InLoop(_Running):
    """A coroutine in a loop that runs in another thread; it is cancelled when it is late."""

    def __init__(self, function: RewardFunction, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(function, call)
        coroutine: Any = function.run(call)
        self.future = asyncio.run_coroutine_threadsafe(coroutine, loop)

    def wait(self) -> bool:
        try:
            self.error = self.future.exception(max(0.0, self.call.deadline - time.monotonic()))
        except TimeoutError:
            self.future.cancel()
            return False
        except CancelledError as error:  # by the function itself
            self.error = error
        return True


async def _end_tasks() -> None:
    """Cancel what a late function left behind, so that no unfinished task is found when the program ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _number(name: str, sample: RewardSample, answer: Any) -> float | Unanswered:
    """An answer as a finite number, or why there is none.

    Raises:
        BurnishError: it is of another type.
    """
    if answer is None:
        return Unanswered("answered None")
    if isinstance(answer, Unanswered):
        return answer
    number = answer
    if hasattr(answer, "item"):  # a number of numpy or torch
        with suppress(ValueError, RuntimeError):  # more than one
            number = answer.item()
    if not isinstance(number, int | float):
        raise BurnishError(
            f"reward '{name}' answered {type(answer).__name__} {str(answer)[:40]!r}, not a number",
            at=f"{AT}, {_places([sample])}",
            fix="return a number for each sample, or None where there is none",
        )
    if not math.isfinite(number):
        return Unanswered(f"answered {float(number)}")
    return float(number)


def _places(samples: Sequence[RewardSample]) -> str:
    """Datasets and rows in words: `gsm8k, rows 3, 5; mine, row 0`, the first few."""
    rows: dict[str, dict[int, None]] = {}
    for sample in samples[: _NAMED * 4]:
        rows.setdefault(sample.dataset, {})[sample.row] = None
    named = [(name, number) for name, numbers in rows.items() for number in numbers][:_NAMED]
    parts: dict[str, list[str]] = {}
    for name, number in named:
        parts.setdefault(name, []).append(str(number))
    text = "; ".join(f"{name}, row{'s' * (len(each) > 1)} {', '.join(each)}" for name, each in parts.items())
    more = len({(sample.dataset, sample.row) for sample in samples}) - len(named)
    return f"{text} and {more} more" if more > 0 else text
