"""Code of the user's own that is called while a run goes on, without touching the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.user_code import load_object, own_code

Row = dict[str, Any]


@dataclass
class Run:
    """A run as its callbacks see it; it is the same object all the time.

    Attributes:
        model: the model that is trained (PEFT's, with LoRA).  tokenizer: its tokenizer.
        settings: all settings under their flat names.  folder: the run folder.
        step, total_steps: optimizer steps done, and of the whole run.  loss: of the last step, nats a token.
    """

    model: Any
    tokenizer: Any
    settings: dict[str, Any]
    folder: Path
    total_steps: int
    step: int = 0
    epoch: float = 0.0
    loss: float = float("nan")
    wishes: dict[str, str] = field(default_factory=dict)

    def stop(self, reason: str) -> None:
        """End the run after this step as if it were complete; the reason is printed and kept in run.json."""
        self.wishes["stop"] = reason

    def save(self) -> None:
        """Save a checkpoint after this step."""
        self.wishes["save"] = "yes"

    def evaluate(self) -> None:
        """Evaluate after this step."""
        self.wishes["evaluate"] = "yes"


class Callback:
    """Override what you need. Every process calls them all, but for `on_row`: only the first one does."""

    def on_start(self, run: Run) -> None:
        """Before the first step."""

    def on_step(self, run: Run) -> None:
        """After each optimizer step, before it is logged, evaluated or saved."""

    def on_row(self, run: Run, row: Row) -> None:
        """For every row of metrics.jsonl; what is added to it here is not written."""

    def on_evaluate(self, run: Run, results: dict[str, float]) -> None:
        """After an evaluation."""

    def on_save(self, run: Run, checkpoint: Path) -> None:
        """After a checkpoint was saved."""

    def on_end(self, run: Run) -> None:
        """After the last step; not when the run is interrupted or fails."""


class _Rows(Callback):
    def __init__(self, function: Callable[[Row], Any]) -> None:
        self.function = function

    def on_row(self, run: Run, row: Row) -> None:
        self.function(row)


class Callbacks:
    """All callbacks of a run; plain functions are called with each row of metrics."""

    def __init__(self, given: Iterable[Any], names: Sequence[str] = ()) -> None:
        self._all: list[tuple[Callback, str]] = []
        for each in [*given, *(load_object(name, "callbacks") for name in names)]:
            made = each() if isinstance(each, type) else each
            title = getattr(each, "__name__", type(each).__name__)
            self._all.append((made if isinstance(made, Callback) else _Rows(made), title))

    def tell(self, moment: str, run: Run, *more: Any) -> None:
        """Call `on_<moment>` of each. Raises BurnishError where one of them fails."""
        for callback, title in self._all:
            with own_code("callbacks", title):
                getattr(callback, f"on_{moment}")(run, *more)
