"""What a row of any data format becomes: frozen, plain Python, no torch and no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


class _Quick:
    """Pickles a frozen dataclass as its values; the way that dataclasses have is five times as slow to read back."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


@dataclass(frozen=True, slots=True)
class ToolCall(_Quick):
    """One call that an assistant turn makes. `arguments` is the parsed JSON object; `id` where the data has one."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn(_Quick):
    """One message. `weight` scales its loss (0 leaves an assistant turn untrained).

    `name` and `call_id` belong to tool turns: the tool that answered, and the id of the call it answers.
    """

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float = 1.0
    name: str | None = None
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Document(_Quick):
    """Plain text, for pretraining."""

    text: str


@dataclass(frozen=True, slots=True)
class Conversation(_Quick):
    """Turns in order: an optional system turn, then user (or tool) and assistant turns.

    `tools` holds the tool descriptions as parsed JSON objects, empty when there are none.
    """

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference(_Quick):
    """A prompt (ends with a user or tool turn) and two answers, the first preferred.

    `margin` says by how much, where the data does: 0 or more, in the unit of a reward model's scores.
    """

    prompt: Conversation
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Feedback(_Quick):
    """A conversation whose last answer was judged useful or not."""

    conversation: Conversation
    desirable: bool


@dataclass(frozen=True, slots=True)
class Prompt(_Quick):
    """A prompt without an answer, and the reference fields that a reward may look at."""

    prompt: Conversation
    reference: dict[str, Any] = field(default_factory=dict)


Record = Document | Conversation | Preference | Feedback | Prompt


@dataclass(frozen=True, slots=True)
class Sample(_Quick):
    """A record and where it came from: `row` counts from 0 in its source file `file`."""

    record: Record
    dataset: str
    row: int
    file: str = ""


# -- on the way to another process ------------------------------------------------------------------------------


def packed(samples: Sequence[Sample]) -> Any:
    """Samples in a form that is quick to pickle; `unpacked` makes the same samples of it."""
    roles: dict[tuple[Role, ...], tuple[Role, ...]] = {}  # equal roles as one object, which pickle writes once
    return [(one.dataset, one.row, one.file, _packed_record(one.record, roles)) for one in samples]


def _packed_record(record: Record, roles: dict[tuple[Role, ...], tuple[Role, ...]]) -> Any:
    if type(record) is not Conversation or record.tools:
        return record
    for turn in record.turns:
        if turn.reasoning is not None or turn.tool_calls or turn.weight != 1.0 or turn.name or turn.call_id:
            return record
    order = tuple([turn.role for turn in record.turns])
    return roles.setdefault(order, order), [turn.content for turn in record.turns]


def unpacked(held: Any) -> list[Sample]:
    """The samples that were `packed`."""
    return [Sample(_unpacked_record(record), dataset, row, file) for dataset, row, file, record in held]


def _unpacked_record(held: Any) -> Record:
    return Conversation(tuple(map(Turn, *held))) if type(held) is tuple else held
