"""Prompts that are read while the run goes on."""

from __future__ import annotations

from typing import Any, Protocol

from burnish.batch.store import Origin
from burnish.template import Example
from burnish.train.lanes import Position
from burnish.train.stream import StreamPlan


class Prompts(Protocol):
    """Prompts by their numbers."""

    def __getitem__(self, number: int, /) -> Example: ...

    def record(self, number: int, /) -> str:
        """The record that a prompt was made from, as text."""
        ...

    def origin(self, number: int, /) -> Origin:
        """Its dataset, file and row."""
        ...


class StreamedPrompts:
    """Prompts of a stream, numbered as they are drawn; those of the rollout at hand are kept, with their records.

    Every process draws every prompt, so that any of them can tell which row an answer belongs to: prompts are cheap
    beside their answers.

    Args:
        plan: gives one prompt a step.
        lanes: into how many the data is divided, if the settings say so.
    """

    def __init__(self, plan: StreamPlan, lanes: int | None) -> None:
        self._plan, self._lanes = plan, lanes
        self._kept: dict[int, tuple[Example, str, Origin]] = {}
        self._first = 0
        self._position: Position = {}
        plan.divide(lanes)

    def __getitem__(self, number: int) -> Example:
        return self._kept[number][0]

    def record(self, number: int) -> str:
        return self._kept[number][1]

    def origin(self, number: int) -> Origin:
        return self._kept[number][2]

    def first_records(self) -> list[str]:
        """The records of the first prompts of the data."""
        return self._plan.first_records()

    def begin(self, place: int) -> None:
        """A rollout begins with this draw: let go of the prompts before it."""
        self._first, self._position, self._kept = place, self._plan.position(place), {}

    def draw(self, place: int) -> int:
        """The number of the prompt that is drawn as number `place` of the run; each is drawn once, in order."""
        [[number]] = self._plan.step(place)
        self._kept[place] = self._plan.example(number), *self._plan.source_of(number)
        return place

    def epoch_at(self, drawn: int) -> float:
        """Passes over the data that are complete after so many draws."""
        return self._plan.epoch_at(drawn)

    def summary(self, drawn: int) -> dict[str, Any]:
        """What was read, for run.json; as of a plan."""
        return self._plan.summary(drawn)

    def position(self) -> Position:
        """Where the rollout at hand began, for a checkpoint."""
        return {"first": self._first, "position": self._position}

    def seek(self, kept: Position, drawn: int) -> None:
        """Draw again what a rollout had drawn, from where `position` says that it began.

        Raises:
            DataError: the data cannot be divided as it was.
        """
        self._first, self._position, self._kept = kept["first"], kept["position"], {}
        self._plan.seek(self._position, self._first, self._lanes)
        for place in range(self._first, drawn):
            self.draw(place)

    def close(self) -> None:
        """Stop preparing ahead."""
        self._plan.close()
