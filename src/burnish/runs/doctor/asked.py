"""Checks of what the model answers: did it learn its rows, and does it know more than them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from burnish.runs.doctor.evidence import Evidence, Finding
from burnish.runs.doctor.probe import Asked, Dependence
from burnish.runs.doctor.rises import loss_rises
from burnish.runs.doctor.rows import named, shortened

_FEWEST = 5  # answers from which on they say something
_SURE = 0.1  # of a loss: an interval that reaches further up is too wide to say that there is nothing
_LEARNED = 0.02  # of the loss before training: a smaller fall is none
_BY_HEART = 0.7  # likeness to the reference from which on most answers are right
_NEVER_ENDS = 0.05  # probability of the stop token after an answer
_ODD, _ODD_NATS = 6.0, 1.5  # deviations and nats a token above rows like it
_SHORT = 12  # words of a reference that says what is asked and nothing else


def answers_shuffled(run: Evidence) -> Iterator[Finding]:
    """Answers are as likely after other rows' prompts as after their own.

    A tuned model may know rows by heart, shuffled ones too, so the base is asked about them, and its word is needed.
    It can be contradicted: by itself on held-out rows of the same files, and by the tuned model on these, or on
    training rows that it has seen but once.
    """
    if run.probe is None:
        return
    training, held_out = run.probe.training, run.probe.held_out
    views = {"the model before training": training.base}
    files = {each.file for each in training.said}
    if held_out and not {each.file for each in held_out.said} <= files:
        held_out = None  # other data may be in order where this is not
    if held_out:
        views["the model before training, on held-out rows,"] = held_out.base
    if _diverged(run):
        pass  # it knows nothing any more
    elif held_out:
        views["the tuned model, on held-out rows,"] = held_out.tuned
    elif float(run.figure("train", "epochs") or 0.0) <= 1 or not training.base:
        views["the tuned model"] = training.tuned
    for dataset in dict.fromkeys(one.dataset for view in views.values() for one in view):
        seen = {name: one for name, view in views.items() for one in view if one.dataset == dataset}
        if any(one.gain.low > 0 for one in seen.values()) or not _sure(next(iter(seen.values()))):
            continue
        told = [
            f"{name} finds the answers of {one.rows} rows {_apart(one)} after their own prompts "
            f"({one.own:.2f} nats a token) than after those of other rows ({one.other:.2f}; difference "
            f"{one.gain.value:+.3f}, 95%: {one.gain.low:+.3f} to {one.gain.high:+.3f})"
            for name, one in seen.items()
        ]
        yield Finding(
            "answers-shuffled",
            "problem",
            f"Answers do not depend on their prompts{f' in {dataset}' if dataset else ''}: the columns may be "
            "shuffled or mapped wrongly.",
            "; ".join(told),
            "read some rows (`burnish data inspect`) and the columns in dataset_info.json: does each answer belong to "
            "its prompt? A task that is all new to the model, or answers that are always alike, look the same",
        )


def _diverged(run: Evidence) -> bool:
    return any(True for _ in loss_rises(run))


def _sure(one: Dependence) -> bool:
    return one.gain.high < max(0.05, _SURE * one.own)


def _apart(one: Dependence) -> str:
    return "less likely" if one.gain.high < 0 else "no likelier"


def not_learned(run: Evidence) -> Iterator[Finding]:
    """The answers to the training prompts are no likelier than before training."""
    part = run.probe.training if run.probe else None
    if part is None or part.base_loss is None or part.gain is None or part.base_loss < 0.1:
        return
    if part.gain.low > 0 and part.gain.value > _LEARNED * part.base_loss:
        return
    low, high = run.usual_rates
    raised = f"raise learning_rate: it is {run.rate:g}, and {low:g} to {high:g} is usual here"
    lowered = f"lower learning_rate: it is {run.rate:g}" if part.gain.high < 0 else "train for more steps"
    yield Finding(
        "not-learned",
        "problem",
        "The model did not learn the rows that it was trained on.",
        f"the loss of {part.rows} training answers is {part.loss:.3f}, and was {part.base_loss:.3f} before training; "
        f"{part.exact} of {len(part.said)} training prompts are answered exactly",
        raised if run.rate < low and part.gain.high >= 0 else lowered,
        _examples(part),
    )


def answers_wrong(run: Evidence) -> Iterator[Finding]:
    """Short answers, which say what is asked and nothing else, are wrong on the training rows."""
    part = run.probe.training if run.probe else None
    if part is None or len(part.said) < _FEWEST or _diverged(run) or any(True for _ in not_learned(run)):
        return
    short = mean(len(each.reference.split()) for each in part.said) <= _SHORT
    if not short or part.likeness >= 0.5 or part.exact >= len(part.said) / 2:
        return
    yield Finding(
        "train-wrong",
        "warning",
        "The model answers most of the prompts that it was trained on wrongly.",
        f"{part.exact} of {len(part.said)} answers are right; they are {part.likeness:.0%} like their references",
        "train longer (num_train_epochs) or with a higher learning_rate; if the loss is low all the same, look whether "
        "like prompts have different answers",
        _examples(part),
    )


def only_by_heart(run: Evidence) -> Iterator[Finding]:
    """Right on the training rows and wrong on held-out ones, or learned there and unlearned here."""
    if run.probe is None or run.probe.held_out is None:
        return
    training, held_out = run.probe.training, run.probe.held_out
    apart = (
        min(len(training.said), len(held_out.said)) >= _FEWEST
        and training.likeness >= _BY_HEART
        and held_out.likeness < 0.6 * training.likeness
        and _least(training) > _most(held_out)
    )
    worse = (
        training.gain is not None
        and held_out.gain is not None
        and training.gain.low > 0
        and held_out.gain.high < -_LEARNED * (held_out.base_loss or 0.0)
    )
    if not (apart or worse):
        return
    told = [
        f"{part.exact} of {len(part.said)} {name} prompts are answered exactly ({part.likeness:.0%} alike), and the "
        f"loss of their answers {_moved(part)}"
        for name, part in (("training", training), ("held-out", held_out))
    ]
    yield Finding(
        "only-by-heart",
        "problem",
        "The model answers the prompts that it was trained on and not others: it does not generalise.",
        "; ".join(told),
        "fewer epochs, a lower learning_rate or more data; an earlier checkpoint may do; and check that held-out rows "
        "are of the same kind as those it was trained on",
        _examples(held_out),
    )


def _moved(part: Asked) -> str:
    return f"is {part.loss:.2f}" if part.base_loss is None else f"went from {part.base_loss:.2f} to {part.loss:.2f}"


def _least(part: Asked) -> float:
    return part.likeness - _margin(part)


def _most(part: Asked) -> float:
    return part.likeness + _margin(part)


def _margin(part: Asked) -> float:
    """Two standard errors of the likeness."""
    middle = part.likeness
    spread = sum((each.likeness - middle) ** 2 for each in part.said) / max(1, len(part.said) - 1)
    return 2.0 * (spread / len(part.said)) ** 0.5


def never_ends(run: Evidence) -> Iterator[Finding]:
    """The stop token is unlikely where an answer is complete, and most answers run on."""
    part = run.probe.training if run.probe else None
    if part is None or part.stops is None or len(part.said) < _FEWEST:
        return
    if part.stops >= _NEVER_ENDS or part.ended > len(part.said) / 2:
        return
    yield Finding(
        "stop-not-learned",
        "problem",
        "The model did not learn to end its answers.",
        f"after a complete training answer the stop token has a probability of {part.stops:.1%} (the middle one); "
        f"{len(part.said) - part.ended} of {len(part.said)} answers ran on past the length of their reference",
        "look whether the stop token has a label (`burnish data inspect`), and whether cutoff_len cuts answers off; "
        "then train for more steps",
    )


def rows_stand_out(run: Evidence) -> Iterator[Finding]:
    """Rows far above others of their dataset and length: mislabelled, broken, or of another kind."""
    found = [each for each in run.odd_rows if each.deviations > _ODD and each.row.loss > each.usual + _ODD_NATS]
    if not found:
        return
    first = found[0]
    yield Finding(
        "rows-stand-out",
        "warning",
        f"{len(found)} row{'s are' if len(found) > 1 else ' is'} much harder than others like {_it(found)}: wrong "
        "answers, broken text, or another kind of task.",
        f"{named(first.row.file, first.row.row, first.row.dataset)} has a loss of {first.row.loss:.2f}, where "
        f"{first.usual:.2f} is usual for rows of its length",
        "read the rows below and mend or drop those that are wrong",
        details={"rows": [each.as_json() for each in found]},
    )


def _it(found: Sequence[object]) -> str:
    return "them" if len(found) > 1 else "it"


def _examples(part: Asked) -> tuple[str, ...]:
    """The first wrong answers."""
    wrong = [each for each in part.said if not each.exact][:2]
    return tuple(
        f"{named(each.file, each.row, each.dataset)}: wanted “{shortened(each.reference, 48)}”, "
        f"said “{shortened(each.answer, 48)}”"
        for each in wrong
    )
