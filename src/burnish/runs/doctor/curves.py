"""Checks of the curves: loss, evaluation, gradient norm."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from burnish.runs.doctor.evidence import Evidence, Finding, Points, Spike, ends, lowered, noise
from burnish.runs.doctor.spikes import spike_rows

_ENOUGH = 8  # logged values from which on a curve says something
_LONG = 30  # logged values after which a usual rate must have shown something
_SPIKE = 1.8  # times the median of its neighbours
_RARE = 0.05  # of the steps: leaps that are more frequent are the noise of small batches
_TAIL = 3.0  # times the leaps that are usual around it: rows of a small batch differ, most of all as they are learned
_BACK = 0.4  # of the loss at the start: less of a leap than this is a row that is not known yet
_CLIPPED_FAR = 10.0  # times max_grad_norm: a norm that far above it is not the usual clipping


def loss_flat(run: Evidence) -> Iterator[Finding]:
    """Nothing was learned: the loss at the end is the loss at the start."""
    points = run.series("loss")
    if len(points) < _ENOUGH or run.stage not in ("sft", "pt"):
        return
    first, last = ends(points)
    # The two medians scatter less than single values do; a change below that is none.
    unsure = noise(points) * 2 / max(1.0, len(points) * 0.1) ** 0.5
    # With a slow rate the whole change is small however smooth the curve is.
    if abs(first - last) > max(0.02 * first, min(unsure, 0.05 * first)) or first < 0.3:
        return
    low, high = run.usual_rates
    if run.rate >= low and len(points) < _LONG:
        return  # a usual rate needs its time
    if run.rate < low:
        advice = f"raise learning_rate: it is {run.rate:g}, and {low:g} to {high:g} is usual here"
    else:
        advice = "train for more steps, or look with `burnish data inspect` whether the labels are what you want"
    yield Finding(
        "loss-flat",
        "problem",
        "The loss did not fall: hardly anything was learned.",
        f"the loss was {first:.3f} at the start and {last:.3f} at the end of {points[-1][0]} steps",
        advice,
    )


def spiking_steps(run: Evidence) -> list[Spike]:
    """Logged losses far above their neighbours after the fast fall at the beginning: few of them, but not one alone.

    Far above is also far above what losses reach now and then at that time of the run, and a good part of the way back
    to the loss of the start: with batches of a row or two the loss has a long tail of rows that are not known yet, and
    the noise of the whole run, most of which may be near 0, knows nothing of it.
    """
    points = run.series("loss")
    cut = len(points) // 10
    before = [0, *(step for step, _ in points)][cut:]  # the last step that is not in a logged mean
    points = points[cut:]
    if len(points) < 2 * _ENOUGH:
        return []
    spread = noise(points)
    least = _BACK * median(value for _, value in run.series("loss")[:_ENOUGH])
    high = [
        (place, Spike(before[place] + 1, step, value, around))
        for place, (step, value) in enumerate(points)
        if value > _SPIKE * (around := _around(points, place)) and value > around + max(8 * spread, 0.3)
    ]
    if len(high) > max(2, _RARE * len(points)):
        return []
    found = [
        spike for place, spike in high if spike.loss > spike.around + max(least, _TAIL * _usual_leap(points, place))
    ]
    return found if len(found) >= 2 else []


def spikes(run: Evidence) -> Iterator[Finding]:
    """Single steps far above their neighbours, with the rows that were in them."""
    found = spiking_steps(run)
    if not found:
        return
    told = ", ".join(f"step {each.last}: {each.loss:.2f} among {each.around:.2f}" for each in found[:3])
    lines, details = spike_rows(run, found)
    yield Finding(
        "loss-spikes",
        "warning",
        f"The loss leapt up {len(found)} times.",
        told + (", …" if len(found) > 3 else ""),
        f"{lowered(run)}; or more warmup_ratio; or look at the rows of these steps",
        lines,
        details,
    )


def _around(points: Points, place: int) -> float:
    beside = points[max(0, place - 4) : place] + points[place + 1 : place + 5]
    return median(value for _, value in beside)


def _usual_leap(points: Points, place: int) -> float:
    """How far the highest twentieth of the 20 values before and after a place, the nearest ones left out, lies above
    their middle; 0 where there are none. A spike and what follows it are not part of it."""
    nearby = points[max(0, place - 24) : max(0, place - 4)] + points[place + 5 : place + 25]
    values = sorted(value for _, value in nearby)
    return values[int(0.95 * len(values))] - median(values) if values else 0.0


def always_clipped(run: Evidence) -> Iterator[Finding]:
    """Every gradient was cut down by far: the step no longer follows the loss."""
    limit, norms = float(run.setting("max_grad_norm") or 0.0), run.series("grad_norm")
    if not limit or len(norms) < 5:
        return
    middle = median(value for _, value in norms)
    share = sum(value > limit for _, value in norms) / len(norms)
    # A rate that is too low already is not made lower.
    if share < 0.95 or middle < _CLIPPED_FAR * limit or run.rate < run.usual_rates[0]:
        return
    yield Finding(
        "always-clipped",
        "warning",
        "Nearly every gradient was clipped, and by far.",
        f"{share:.0%} of the norms are above max_grad_norm {limit:g}; the middle one is {middle:.3g}",
        f"{lowered(run)}, or a larger batch; raise max_grad_norm only if the loss falls smoothly",
    )


def overfits(run: Evidence) -> Iterator[Finding]:
    """The evaluation's loss rises while the training's falls."""
    evals, train = run.series("eval_loss"), run.series("loss")
    if len(evals) < 2 or len(train) < 3:
        return
    best_step, best = min(evals, key=lambda point: point[1])
    last_step, last = evals[-1]
    since = [point for point in train if point[0] >= best_step]
    fell = ends(train)[0] > ends(train)[1] and (len(since) < 2 or since[0][1] >= since[-1][1] - noise(train))
    if last <= best + max(0.03 * best, 0.02) or not fell:
        return
    evidence = f"eval_loss was {best:.3f} at step {best_step} and {last:.3f} at step {last_step}"
    evidence += f"; the training loss fell to {ends(train)[1]:.3f}"
    if best_step == evals[0][0]:
        yield Finding(
            "never-generalised",
            "problem",
            "The model learned its rows, and nothing that helps with others.",
            evidence + "; no evaluation was better than the first",
            "check that answers belong to their questions (`burnish data inspect`, `--probe 20`); then fewer epochs, a "
            "lower learning_rate or more data",
        )
        return
    kept = [step for step in run.checkpoints if step <= best_step]
    use = f"use checkpoint-{kept[-1]}" if kept else "save checkpoints (save_steps) and set load_best_model_at_end: true"
    yield Finding(
        "overfit",
        "problem",
        f"From step {best_step} on the model learned its rows by heart.",
        evidence,
        f"{use}; train for fewer epochs (num_train_epochs), or on more rows; lora_dropout and a smaller lora_rank help",
    )


def memorised(run: Evidence) -> Iterator[Finding]:
    """A small set seen so often that its loss is next to nothing, and no evaluation that would tell."""
    points, epochs = run.series("loss"), float(run.figure("train", "epochs") or 0.0)
    evals = run.series("eval_loss")
    if len(points) < _ENOUGH or epochs < 4 or run.stage not in ("sft", "pt"):
        return
    first, last = ends(points)
    if last > 0.15 * first or last > 0.3 or len(evals) > 1:
        return
    if evals and evals[-1][1] < 3 * last + 0.1:
        return
    rows = run.figure("data", "rows_used")
    gap = f"; eval_loss is {evals[-1][1]:.3f}" if evals else "; nothing was held out to compare with"
    yield Finding(
        "memorised",
        "warning",
        f"{rows} rows were seen {epochs:.0f} times, until the model knew them by heart.",
        f"the loss fell from {first:.3f} to {last:.3f}{gap}",
        "hold rows out (val_size: 0.1) and train for fewer epochs, or on more rows; by heart may be what you want",
    )


def dataset_lags(run: Evidence) -> Iterator[Finding]:
    """One dataset of the mix learns much less than the others."""
    falls = {}
    for name in run.names("loss_"):
        points = run.series(name)
        if len(points) >= 6:
            first, last = ends(points)
            falls[name.removeprefix("loss_")] = (first - last) / first if first else 0.0
    if len(falls) < 2:
        return
    middle = median(falls.values())
    for name, fall in falls.items():
        if middle > 0.15 and fall < 0.2 * middle:
            yield Finding(
                "dataset-lags",
                "warning",
                f"The dataset {name} learns much less than the others.",
                f"its loss fell by {fall:.0%}, the middle one's by {middle:.0%}",
                "give it more weight (mix_strategy: interleave_over with interleave_probs), or look at its rows",
            )


def preference_stays(run: Evidence) -> Iterator[Finding]:
    """Chosen and rejected answers are told apart no better than by a coin."""
    points = run.series("rewards/accuracies")
    if len(points) < 2 * _ENOUGH:
        return
    _, last = ends(points)
    if last < 0.55:
        low, high = run.usual_rates
        yield Finding(
            "no-preference",
            "problem",
            "The model does not tell chosen from rejected answers.",
            f"at the end it ranks {last:.0%} of the training pairs rightly",
            f"raise learning_rate ({run.rate:g}; {low:g} to {high:g} is usual), or check that chosen and rejected are "
            "not swapped",
        )
