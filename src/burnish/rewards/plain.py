"""Rewards that need nothing but a look at the answer: equal to the reference, and of the right length."""

from __future__ import annotations

from typing import Any

from burnish.errors import BurnishError
from burnish.rewards.records import Call, RewardFunction, RewardSample, Surroundings, Unanswered

_AT = "reward_funcs"
UNITS = ("tokens", "words", "characters")


def exact_match(around: Surroundings, *, column: str = "answer", ignore_case: bool = False) -> RewardFunction:
    """1 where the answer is the reference, 0 where it is not; spaces around both do not count."""

    def run(call: Call) -> None:
        for place, sample in enumerate(call.samples):
            wanted = reference_text(sample, column)
            if isinstance(wanted, str):
                ours, theirs = sample.completion.strip(), wanted.strip()
                equal = ours.casefold() == theirs.casefold() if ignore_case else ours == theirs
                call.answers[place] = float(equal)
            else:
                call.answers[place] = wanted

    return RewardFunction(run, columns=(column,))


def length(
    around: Surroundings,
    *,
    target: int | None = None,
    tolerance: int | None = None,
    max: int | None = None,
    buffer: int | None = None,
    unit: str = "tokens",
) -> RewardFunction:
    """How well the length of the answer fits.

    With `target`: 1 at the target, falling evenly to 0 at `tolerance` above or below it (default: the target itself).
    With `max`: 0 up to `max - buffer`, falling evenly to -1 at `max` and beyond: the soft punishment of DAPO (eq. 13,
    arXiv:2503.14476); `buffer` is a quarter of `max` unless it is given.
    """
    _check_length(target, tolerance, max, buffer, unit)

    def run(call: Call) -> None:
        for place, sample in enumerate(call.samples):
            size = _size(sample, unit)
            if isinstance(size, Unanswered):
                call.answers[place] = size
            elif target is not None:
                away = abs(size - target) / (tolerance or target)
                call.answers[place] = 1.0 - min(1.0, away)
            else:
                assert max is not None
                soft = max // 4 if buffer is None else buffer
                over = size - (max - soft)
                call.answers[place] = 0.0 if over <= 0 else -min(1.0, over / soft) if soft else -1.0

    return RewardFunction(run, counts_tokens=unit == "tokens")


def _check_length(target: int | None, tolerance: int | None, most: int | None, buffer: int | None, unit: str) -> None:
    if unit not in UNITS:
        raise BurnishError(f"the reward length counts no '{unit}'", at=_AT, fix=f"it counts {', '.join(UNITS)}")
    if (target is None) == (most is None):
        what = "the reward length needs either 'target' or 'max'"
        raise BurnishError(what, at=_AT, fix="write {name: length, target: 200} or {name: length, max: 512}")
    idle = ("buffer", buffer) if target is not None else ("tolerance", tolerance)
    if idle[1] is not None:
        other = "max" if target is not None else "target"
        raise BurnishError(f"'{idle[0]}' of the reward length goes with '{other}'", at=_AT, fix="leave it out")
    for key, value in (("target", target), ("tolerance", tolerance), ("max", most)):
        if value is not None and value < 1:
            raise BurnishError(f"'{key}' of the reward length must be at least 1, not {value}", at=_AT)
    if buffer is not None and most is not None and not 0 <= buffer <= most:
        raise BurnishError(f"'buffer' of the reward length must be from 0 to max, not {buffer}", at=_AT)


def _size(sample: RewardSample, unit: str) -> int | Unanswered:
    if unit == "characters":
        return len(sample.completion)
    if unit == "words":
        return len(sample.completion.split())
    if not sample.token_ids and sample.completion:
        return Unanswered("counts tokens, and the answer's tokens are not known here")
    return len(sample.token_ids)


def reference_text(sample: RewardSample, column: str) -> str | Unanswered:
    """A column of the row as text, or that it has none."""
    value: Any = sample.reference.get(column)
    if value is None:
        return Unanswered(f"needs the column '{column}', which is empty here")
    if isinstance(value, list | dict):
        return Unanswered(f"needs text in the column '{column}', not {type(value).__name__}")
    return value if isinstance(value, str) else str(value)
