"""What a run left behind, in the shape that checks ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from burnish.runs.checkpoints import checkpoint_step, list_checkpoints
from burnish.runs.doctor.probe import Probe
from burnish.runs.doctor.rows import OddRow
from burnish.runs.folder import RunFolder, read_summary

Points = list[tuple[int, float]]
"""(step, value), finite, in the order of the steps."""

_PART = 0.1  # of a run: its beginning and its end


@dataclass(frozen=True)
class Finding:
    """Something that a check saw.

    `name` is stable, for scripts. A `problem` spoils the run, a `warning` costs quality or time. `lines`: what people
    are shown below it. `details`: the same and more, for scripts.
    """

    name: str
    level: Literal["problem", "warning"]
    what: str
    evidence: str
    advice: str
    lines: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What scripts get: without `lines`, and without `details` where there are none."""
        return {key: value for key, value in asdict(self).items() if key != "lines" and (value or key != "details")}


class Spike(NamedTuple):
    """A logged loss far above its neighbours: the mean of the steps `first` to `last`, and the neighbours' median."""

    first: int
    last: int
    loss: float
    around: float


class StepContent(NamedTuple):
    """What was in an optimizer step: each dataset's share of its supervised tokens, and the mean tokens of its rows."""

    shares: tuple[float, ...]
    tokens: float


@dataclass(frozen=True)
class Order:
    """What was in the steps of a run, and the names of the datasets that the shares are of."""

    names: tuple[str, ...]
    steps: Mapping[int, StepContent]


@dataclass(frozen=True)
class Evidence:
    """A run's summary and its rows of metrics, and what was measured for the doctor alone.

    `batches`: dataset, file and row of the samples of steps that spikes lie in; a text says why they cannot be told.
    `order`: what was in the steps, where the loss goes up and down; a text says why it cannot be told.
    `probe`: what the model answered. `odd_rows`: the rows that stand out by their loss, the worst first; `losses`: the
    loss of each row that was measured.
    """

    path: Path
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[int] = field(default_factory=tuple)
    batches: Mapping[int, Sequence[tuple[str, str, int]]] | str = field(default_factory=dict)
    order: Order | str | None = None
    probe: Probe | None = None
    odd_rows: Sequence[OddRow] = ()
    losses: Mapping[tuple[str, str, int], float] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Evidence:
        """Read a run folder. Raises RunFolderError when it holds no run."""
        summary = read_summary(path)
        folder = RunFolder(path)
        steps = [checkpoint_step(each) or 0 for each in list_checkpoints(folder.path)]
        return cls(folder.path, summary, folder.metrics.read(), steps)

    def setting(self, name: str) -> Any:
        return self.summary.get("settings", {}).get(name)

    def figure(self, room: str, name: str) -> Any:
        """A value of run.json, or None."""
        return (self.summary.get(room) or {}).get(name)

    @property
    def stage(self) -> str:
        return self.setting("stage") or "sft"

    @property
    def rate(self) -> float:
        return float(self.setting("learning_rate") or 0.0)

    @property
    def usual_rates(self) -> tuple[float, float]:
        """Learning rates that usually work, lowest and highest.

        For LoRA about ten times those of full tuning: J. Schulman et al., "LoRA Without Regret", 2025. Preference
        stages take rates about ten times smaller.
        """
        low, high = (1e-4, 1e-3) if self.setting("finetuning_type") == "lora" else (1e-5, 1e-4)
        return (low, high) if self.stage in ("sft", "pt", "rm") else (low / 20, high / 10)

    def series(self, name: str) -> Points:
        """A column of the metrics, without the rows where it is missing or not finite."""
        found = [(int(row["step"]), row.get(name)) for row in self.rows if "step" in row]
        return [(step, float(value)) for step, value in found if isinstance(value, int | float) and value == value]

    def names(self, start: str) -> list[str]:
        """The columns whose names begin so."""
        return sorted({name for row in self.rows for name in row if name.startswith(start)})


def ends(points: Points) -> tuple[float, float]:
    """The medians of the first and of the last tenth, at least three points each (or half of what there is)."""
    size = max(min(3, len(points) // 2), round(len(points) * _PART), 1)
    values = [value for _, value in points]
    return median(values[:size]), median(values[-size:])


def noise(points: Points) -> float:
    """How far single values scatter: the standard deviation as the differences of neighbours tell it.

    1.4826 · median |x(i+1) - x(i)| / √2: robust, and blind to a slow trend.
    """
    steps = [abs(later[1] - earlier[1]) for earlier, later in pairwise(points)]
    return 1.4826 * median(steps) / 2**0.5 if steps else 0.0


def lowered(run: Evidence) -> str:
    """The advice to take a lower rate."""
    low, high = run.usual_rates
    usual = f", and {low:g} to {high:g} is usual here" if run.rate > high else ""
    return f"lower learning_rate: it is {run.rate:g}{usual}"
