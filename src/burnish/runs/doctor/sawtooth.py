"""Checks of a loss that goes up and down again and again, or falls in steps: what does it follow?

Three things make one. The rate is too high. The batches are not alike: they follow the mix of datasets, the length of
rows, or an order that comes again in each epoch. Or each epoch begins with rows that the model remembers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from burnish.runs.doctor.curves import memorised, overfits
from burnish.runs.doctor.evidence import Evidence, Finding, Order, Points, lowered
from burnish.runs.doctor.rises import loss_rises
from burnish.runs.doctor.waves import Waves, explained, find_waves, folded, smoothed

_STAGES = ("sft", "pt")
_MOSTLY = 0.5  # of a wave's variance: what explains as much is its cause
_EPOCHS = 3  # from which on something can come again with each of them
_POINTS = 4  # logged values an epoch
_SURE = 5.0  # standard errors of the fall between epochs
_STEP = 0.07  # of the loss, between two epochs
_AT_ENDS = 0.6  # of the whole fall since the first epoch
_HELPED = 1 / 3  # of the training loss's fall: an eval_loss that fell as much says that the rows were not learned alone


def waves_of(run: Evidence) -> Waves | None:
    """The waves of a run's loss; None where there are none, or where they were asked for by the schedule."""
    if run.stage not in _STAGES:
        return None
    found = find_waves(run.series("loss"))
    if found is None or _by_schedule(run, found) >= _MOSTLY:
        return None
    return found


def logged_spans(points: Points) -> list[range]:
    """The steps that each logged value is the mean of."""
    before = [0, *(step for step, _ in points)]
    return [range(first + 1, last + 1) for first, (last, _) in zip(before, points, strict=False)]


def sawtooth(run: Evidence) -> Iterator[Finding]:
    """The loss goes up and down with a memory, or falls between epochs and nowhere else."""
    found = waves_of(run)
    if found is None:
        yield from _steps_by_epoch(run)
        return
    points = run.series("loss")
    spans = [logged_spans(points)[place] for place in found.at]
    steps_apart = found.period * (points[-1][0] / len(points))
    told = (
        f"the loss went up and down {found.cycles} times, "
        f"{f'every {steps_apart:.0f} steps' if found.regular else f'about every {steps_apart:.0f} steps'}, between "
        f"{found.low:.3f} and {found.high:.3f} (the middle ones); autocorrelation {found.correlation:.2f}, where "
        f"{2 / math.sqrt(len(found.wave)):.2f} can be noise"
    )
    details: dict[str, Any] = {
        **{"cycles": found.cycles, "period_steps": round(steps_apart, 1), "regular": found.regular},
        **{"low": found.low, "high": found.high, "autocorrelation": found.correlation, "points": len(found.wave)},
    }
    shares = _shares(run, found, spans)
    details["explained"] = shares
    if shares.get("mix", 0.0) >= _MOSTLY:
        yield _of_mix(run, found, spans, told, details)
    elif shares.get("length", 0.0) >= _MOSTLY:
        yield _of_length(run, told, details)
    elif shares.get("epoch", 0.0) >= max(_MOSTLY, 2 / _epochs(run)):
        seen = f"{told}; the place in the epoch explains {shares['epoch']:.0%} of it"
        yield _of_epoch(run, seen, details)
    elif not any(True for _ in loss_rises(run)):
        yield _of_rate(run, told, details)


# -- what a wave follows ------------------------------------------------------------------------------------


def _by_schedule(run: Evidence, found: Waves) -> float:
    """How much of a wave a learning rate that rises again and again explains; 0 for one that only falls."""
    rates = [rate for _, rate in run.series("learning_rate")]
    if len(rates) != len(run.series("loss")):
        return 0.0
    rates = [rates[place] for place in found.at]
    top = rates[0]
    for earlier, later in pairwise(rates):
        top = max(top, earlier)
        if earlier < 0.9 * top and later > 1.05 * earlier:  # a warm-up rises but once, to its top
            break
    else:
        return 0.0
    return explained(found.wave, [smoothed(_array(rates), found.width).tolist()])


def _shares(run: Evidence, found: Waves, spans: Sequence[range]) -> dict[str, float]:
    """How much of a wave's variance each possible cause explains."""
    shares: dict[str, float] = {}
    if isinstance(run.order, Order):
        columns, lengths = _columns(run.order, spans)
        if len(columns) > 1:
            # The last share follows from the others.
            shares["mix"] = explained(found.wave, [_smooth(column, found) for column in columns[:-1]])
        shares["length"] = explained(found.wave, [_smooth([math.log(length) for length in lengths], found)])
    epochs, steps = _epochs(run), run.series("loss")[-1][0]
    points = len(run.series("loss")) / epochs if epochs else 0.0
    if epochs >= _EPOCHS and points >= 3:
        phases = [(span[0] + span[-1] - 1) / 2 * epochs / steps % 1.0 for span in spans]
        shares["epoch"], _ = folded(found.wave, phases, min(8, int(points // 1.5)))
    return shares


def _columns(order: Order, spans: Sequence[range]) -> tuple[list[list[float]], list[float]]:
    """Each dataset's share, and the mean length of rows, for each logged value."""
    of_each = [[order.steps[step] for step in span if step in order.steps] for span in spans]
    shares = [
        [fmean(content.shares[number] for content in contents) for contents in of_each]
        for number in range(len(order.names))
    ]
    return shares, [fmean(content.tokens for content in contents) for contents in of_each]


def _smooth(values: Sequence[float], found: Waves) -> list[float]:
    return list(smoothed(_array(values), found.width))


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.asarray(values, dtype=np.float64)


def _epochs(run: Evidence) -> float:
    return float(run.figure("train", "epochs") or 0.0)


# -- findings -----------------------------------------------------------------------------------------------


def _of_mix(run: Evidence, found: Waves, spans: Sequence[range], told: str, details: dict[str, Any]) -> Finding:
    assert isinstance(run.order, Order)
    columns, _ = _columns(run.order, spans)
    levels = found.trend * (1.0 + found.wave)
    lines = []
    for name, column in zip(run.order.names, columns, strict=True):
        parts = sorted(zip(column, levels.tolist(), strict=True))
        quarter = max(1, len(parts) // 4)
        few, many = parts[:quarter], parts[-quarter:]
        lines.append(
            f"{Path(name).stem if '/' in name else name}: {fmean(loss for _, loss in many):.3f} where it is most of a "
            f"step ({fmean(share for share, _ in many):.0%}), {fmean(loss for _, loss in few):.3f} where it is least "
            f"({fmean(share for share, _ in few):.0%})"
        )
    order = (
        "leave disable_shuffling out, so that each step holds some of each dataset"
        if run.setting("disable_shuffling")
        else "larger batches (gradient_accumulation_steps) hold some of each dataset"
    )
    return Finding(
        "sawtooth-mix",
        "warning",
        "The loss goes up and down with the mix of datasets in the batches.",
        f"{told}; the datasets' shares in a step explain {details['explained']['mix']:.0%} of it",
        f"{order}; read the column loss_NAME of each dataset, since their sum says little",
        tuple(lines),
        {"cause": "mix", **details},
    )


def _of_length(run: Evidence, told: str, details: dict[str, Any]) -> Finding:
    sorted_by = "group_by_length" if run.setting("group_by_length") else "disable_shuffling"
    return Finding(
        "sawtooth-length",
        "warning",
        "The loss goes up and down with the length of the rows in the batches.",
        f"{told}; the mean length of a step's rows explains {details['explained']['length']:.0%} of it",
        f"leave {sorted_by} out, so that rows of all lengths are in each step"
        if run.setting(sorted_by)
        else "larger batches (gradient_accumulation_steps), or read eval_loss, which is of the same rows each time",
        details={"cause": "length", **details},
    )


def _of_epoch(run: Evidence, seen: str, details: dict[str, Any]) -> Finding:
    if run.setting("disable_shuffling") or run.setting("streaming"):
        return Finding(
            "sawtooth-order",
            "warning",
            "The loss goes the same way in each epoch: the rows come in the same order each time.",
            seen,
            "leave disable_shuffling out"
            if run.setting("disable_shuffling")
            else "raise buffer_size, or shuffle the files: a stream mixes rows only within its buffer",
            details={"cause": "order", **details},
        )
    held = "" if run.series("eval_loss") else "hold rows out (val_size: 0.1), to see whether it helps with others; "
    return Finding(
        "sawtooth-epoch",
        "warning",
        "The loss falls when an epoch begins, and hardly in between: the model remembers the rows themselves.",
        seen,
        f"{held}train for fewer epochs (num_train_epochs), or on more rows; a lower learning_rate",
        details={"cause": "epoch", **details},
    )


def _of_rate(run: Evidence, told: str, details: dict[str, Any]) -> Finding:
    if isinstance(run.order, str):
        why = f"what was in the batches cannot be told: {run.order}"
    else:
        why = "it follows neither the epochs nor what was in the batches" if run.order else "it does not follow epochs"
    high = run.rate > run.usual_rates[1]
    more = "or more warmup_ratio, or larger batches (gradient_accumulation_steps)"
    return Finding(
        "sawtooth-rate",
        "problem" if high else "warning",
        "The loss goes up and down again and again: the steps are too large.",
        f"{told}; {why}",
        f"{lowered(run)}; {more}",
        details={"cause": "rate", **details},
    )


# -- steps between epochs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Falls:
    """The falls of the loss between epochs, in logarithms, beyond what the fall within epochs makes of them."""

    net: tuple[float, ...]
    sure: float  # standard errors of their mean
    share: float  # of the whole fall since the end of the first epoch


def _steps_by_epoch(run: Evidence) -> Iterator[Finding]:
    """The loss falls between epochs: each row is better known the second time, and others are not.

    Said only where nothing else says it, and no held-out loss says that other rows gained as well.
    """
    points, epochs = run.series("loss"), _epochs(run)
    if run.stage not in _STAGES or epochs < _EPOCHS or len(points) < _POINTS * epochs or min(points)[1] <= 0:
        return
    falls = _falls(points, epochs)
    if falls is None or falls.sure < _SURE or falls.share < _AT_ENDS or fmean(falls.net) < _STEP:
        return
    if sum(each > 0 for each in falls.net) < 0.8 * len(falls.net) or _others_gained(run, points, epochs):
        return
    if any(True for check in (overfits, memorised) for _ in check(run)):
        return
    down = 1 - math.exp(-fmean(falls.net))
    seen = (
        f"between epochs the loss fell by {down:.0%} on average ({len(falls.net)} times, {falls.sure:.0f} standard "
        f"errors), which is {min(1.0, falls.share):.0%} of its whole fall since the first epoch"
    )
    details = {"falls": list(falls.net), "standard_errors": falls.sure, "share_of_fall": falls.share}
    yield _of_epoch(run, seen, details)


def _falls(points: Points, epochs: float) -> _Falls | None:
    """Compare the end of each epoch with the beginning of the next one.

    A line through each epoch tells how far the loss falls within it, and how far it scatters. What falls between the
    last values of an epoch and the first ones of the next, beyond that line, is the epoch's.
    """
    import numpy as np

    length = points[-1][0] / epochs  # in steps
    parts: dict[int, list[tuple[float, float]]] = {}
    for span, (_, loss) in zip(logged_spans(points), points, strict=True):
        first, last = int((span[0] - 1) // length), int((span[-1] - 0.5) // length)
        if first == last:  # values that span two epochs belong to neither
            parts.setdefault(first, []).append(((span[0] + span[-1]) / 2, math.log(loss)))
    whole = [parts[number] for number in sorted(parts) if len(parts[number]) >= _POINTS]
    if len(whole) < _EPOCHS:
        return None
    lines = [np.polyfit(np.array(part)[:, 0], np.array(part)[:, 1], 1) for part in whole]
    rests = [float(((np.array(part)[:, 1] - np.polyval(line, np.array(part)[:, 0])) ** 2).sum())
             for part, line in zip(whole, lines, strict=True)]  # fmt: skip
    scatter = sum(rests) / max(1, sum(len(part) - 2 for part in whole))
    width = max(2, min(10, min(map(len, whole)) // 4))
    net, variance, drops = [], 0.0, 0.0
    for before, after, one, other in zip(whole, whole[1:], lines, lines[1:], strict=False):
        end, begin = np.array(before[-width:]).mean(0), np.array(after[:width]).mean(0)
        slope = max(0.0, -float(one[0] + other[0]) / 2)
        net.append(float(end[1] - begin[1]) - slope * float(begin[0] - end[0]))
        drops += float(end[1] - begin[1])
        spread = sum(
            float(((np.array(part)[:, 0] - np.array(part)[:, 0].mean()) ** 2).sum()) for part in (before, after)
        )
        variance += scatter * (2 / width + float(begin[0] - end[0]) ** 2 / max(spread, 1e-9))
    fall = fmean(loss for _, loss in whole[0][-width:]) - fmean(loss for _, loss in whole[-1][-width:])
    if fall <= 0:
        return None
    error = math.sqrt(variance) / len(net)
    return _Falls(tuple(net), fmean(net) / max(error, 1e-9), drops / fall)


def _others_gained(run: Evidence, points: Points, epochs: float) -> bool:
    """Whether a held-out loss fell with the training's after the first epoch."""
    first = 0.75 * points[-1][0] / epochs
    held = [(step, loss) for step, loss in run.series("eval_loss") if step >= first and loss > 0]
    since = [(step, loss) for step, loss in points if step >= first]
    if len(held) < 2 or held[-1][1] >= held[0][1] or len(since) < 2:
        return False
    fell = math.log(fmean(loss for _, loss in since[:3])) - math.log(fmean(loss for _, loss in since[-3:]))
    return math.log(held[0][1] / held[-1][1]) >= _HELPED * fell
