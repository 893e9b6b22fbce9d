"""What a reward function is asked, what it may answer, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.data.records import Conversation


@dataclass(frozen=True, slots=True)
class RewardSample:
    """One sampled answer.

    Attributes:
        prompt: what was asked.
        completion: the answer as text, without special tokens.
        reference: the columns of the row that are not part of the prompt; its answer is `reference["answer"]`.
        dataset, row: where the prompt came from; rows count from 0.
        token_ids: the answer as it was sampled.
        finished: whether it ended by itself, not at the limit of its length.
    """

    prompt: Conversation
    completion: str
    reference: dict[str, Any]
    dataset: str
    row: int
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class Scores:
    """What the functions say of a batch of samples.

    Attributes:
        values: for each sample, each function's answer before weights; None where it gave none.
        totals: for each sample, the weighted sum over the functions that answered; None where none did: such a sample
            is left out of training and counted.
        notes: one sentence a function and kind of failure; names datasets, rows, the function and what happened.
    """

    values: list[dict[str, float | None]]
    totals: list[float | None]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Put in the place of an answer: there is none, and why."""

    why: str


PENDING = Unanswered("was not answered")
"""In the place of an answer that has not come yet."""


@dataclass(slots=True)
class Call:
    """One batch on its way through one function.

    Attributes:
        samples: what is asked.
        deadline: `time.monotonic()` at which the batch goes on without answers that have not come.
        answers: one for each sample, filled in place, so that those in time count even if others are late.
    """

    samples: Sequence[RewardSample]
    deadline: float
    answers: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers = [PENDING] * len(self.samples)


@dataclass(frozen=True)
class RewardFunction:
    """One way to score answers, built from its parameters.

    Attributes:
        run: fills `Call.answers`; a coroutine function where `is_async`.
        name: in metrics and messages.
        columns: columns of the data without which it cannot answer.
        is_async: whether `run` is awaited.
        counts_tokens: whether it looks at `RewardSample.token_ids`.
        close: ends what it keeps open.
    """

    run: Callable[[Call], None] | Callable[[Call], Coroutine[Any, Any, None]]
    name: str = ""
    columns: tuple[str, ...] = ()
    is_async: bool = False
    counts_tokens: bool = False
    close: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every factory of a function is given besides its own parameters.

    Attributes:
        timeout_s: seconds for a batch.
        render: (prompt, completion) → the text that a scorer is sent.
    """

    timeout_s: float
    render: Callable[[Conversation, str], str]
