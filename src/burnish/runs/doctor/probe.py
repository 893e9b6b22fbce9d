"""What a run's model answered when the doctor asked it: facts, for checks and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from burnish.runs.doctor.rows import named, shortened
from burnish.runs.tables import table

_SHOWN = 3  # answers
_WIDTH = 110  # letters of each text that is shown


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Said:
    """One prompt that was asked: what the data answers and what the model did.

    `likeness`: 0 to 1; 1 where `exact`. `ended`: whether the model stopped by itself, before it had said much more than
    the reference.
    """

    dataset: str
    file: str
    row: int
    prompt: str
    reference: str
    answer: str
    exact: bool
    likeness: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Dependence:
    """How much answers depend on their prompts, in mean nats a token over some rows of a dataset.

    `own`: the loss after their own prompts. `other`: after those of other rows of the same dataset. `gain`: the second
    minus the first; around 0 where a prompt tells nothing about its answer. `dataset` is "" for rows of all of them.
    """

    dataset: str
    rows: int
    own: float
    other: float
    gain: Mean


@dataclass(frozen=True, slots=True)
class Asked:
    """What was found on one kind of rows. Losses are mean nats a token of `rows` reference answers.

    `base_loss`: before training; `gain`: that minus `loss`. `base` and `tuned`: how answers depend on their prompts.
    `stops`: the median probability of the stop token at the end of an answer; None where no answer was seen whole.
    """

    said: tuple[Said, ...]
    rows: int
    loss: float
    base_loss: float | None
    gain: Mean | None
    tuned: tuple[Dependence, ...]
    base: tuple[Dependence, ...]
    stops: float | None

    @property
    def exact(self) -> int:
        """Answers that are the reference letter by letter."""
        return sum(each.exact for each in self.said)

    @property
    def likeness(self) -> float:
        """How alike answers and references are on average, 0 to 1."""
        return mean(each.likeness for each in self.said)

    @property
    def ended(self) -> int:
        """Answers that the model ended by itself."""
        return sum(each.ended for each in self.said)


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found on the rows that the run was trained on and, where it has some, on those it was not.

    `notes`: what could not be measured, and why.
    """

    training: Asked
    held_out: Asked | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """All of it, with the counts."""
        parts = {"training": self.training, "held_out": self.held_out}
        return {name: part and _json(part) for name, part in parts.items()} | {"notes": list(self.notes)}


def _json(part: Asked) -> dict[str, Any]:
    counts = {"asked": len(part.said), "exact": part.exact, "likeness": part.likeness, "ended": part.ended}
    return {**counts, **asdict(part)}


def render_probe(probe: Probe) -> str:
    """The facts for people: a table, and a few answers."""
    parts = [("training rows", probe.training)]
    if probe.held_out:
        parts.append(("held-out rows", probe.held_out))
    columns = [_figures(part) for _, part in parts]
    head = ["", *(title for title, _ in parts)]
    lines = [[name, *(column.get(name, "") for column in columns)] for name in columns[0]]
    shown = [f"What the model says (losses in nats a token, 95% intervals in brackets):\n{table([head, *lines])}"]
    shown += [f"note: {line}" for line in probe.notes]
    for title, part in parts:
        some = [_answer(each) for each in _fair(part.said)]
        shown.append(f"{len(some)} of the {title} that were asked:\n" + "\n".join(some))
    return "\n\n".join(shown)


def _figures(part: Asked) -> dict[str, str]:
    asked = len(part.said)
    found = {
        "answers equal to the reference": f"{part.exact} of {asked}",
        "likeness to the reference (ROUGE-L)": f"{part.likeness:.0%}",
        "answers that ended by themselves": f"{part.ended} of {asked}",
        "rows whose answers were measured": str(part.rows),
        "loss of these answers": f"{part.loss:.3f}",
    }
    if part.base_loss is not None and part.gain is not None:
        found["  before training"] = f"{part.base_loss:.3f}"
        found["  fell by"] = _spanned(part.gain)
    for of, which in (("", part.tuned), (", before training", part.base)):
        for one in which:
            name = f"  less than after other rows' prompts{of}" + (f" ({one.dataset})" if one.dataset else "")
            found[name] = _spanned(one.gain)
    if part.stops is not None:
        found["probability of the stop token at their end"] = f"{part.stops:.1%}"
    return found


def _spanned(found: Mean) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _fair(said: Sequence[Said]) -> Sequence[Said]:
    """Some answers, evenly spaced, never chosen by their worth."""
    return said[:: max(1, len(said) // _SHOWN)][:_SHOWN]


def _answer(each: Said) -> str:
    texts = (("asked", each.prompt), ("wanted", each.reference), ("said", each.answer))
    lines = [
        f"  {named(each.file, each.row, each.dataset)}",
        *(f"    {name:<7}{shortened(text, _WIDTH)}" for name, text in texts),
    ]
    return "\n".join(lines)
