"""What is known about a dataset before a row of it is read: where it lies, and what its keys mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

FORMATTINGS = ("alpaca", "sharegpt", "openai", "prompt_completion")
CHAT_FORMATTINGS = ("sharegpt", "openai")
"""Those whose rows hold a list of messages."""
SourceKind = Literal["file", "script", "cloud", "hf_hub", "ms_hub", "om_hub"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which key of a row holds what; None: the data has no such column. The defaults are alpaca's."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None
    weight: str | None = None
    margin: str | None = None


@dataclass(frozen=True, slots=True)
class Tags:
    """How a message names its role and text, and how the roles are called; None: no such role."""

    role_tag: str | None = "from"
    content_tag: str | None = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"


COLUMN_NAMES = tuple(field.name for field in fields(Columns))
TAG_NAMES = tuple(field.name for field in fields(Tags))
NO_COLUMNS = Columns(**dict.fromkeys(COLUMN_NAMES))
NO_TAGS = Tags(**dict.fromkeys(TAG_NAMES))
OPENAI_TAGS = Tags("role", "content", "user", "assistant", "tool", None, "system")


def default_columns(formatting: str, ranking: bool = False) -> Columns:
    """The columns of a formatting whose entry lists none."""
    columns = Columns()
    if formatting == "openai":
        columns = Columns(messages="messages")
    if formatting == "prompt_completion":
        columns = Columns(prompt="prompt", query=None, response="completion")
    return replace(columns, chosen="chosen", rejected="rejected") if ranking else columns


def default_tags(formatting: str) -> Tags:
    """The tags of a formatting whose entry lists none."""
    return Tags() if formatting == "sharegpt" else OPENAI_TAGS


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """One dataset as the registry describes it, or as guessed from a file that was named directly.

    Args:
        name: its name in the registry, or the path as the user wrote it.
        source_kind: where it comes from: a local file, a local folder with a loading script, a hub or a cloud.
        source: the file or folder name, hub repository or cloud address, as written.
        path: the local file, folder or pattern; None for hubs and clouds.
        formatting: one of FORMATTINGS, or None where the first rows shall tell.
        listed: the columns and tags that the user wrote down; only these must be in the data.
        subset, split, folder, revision: which part of a hub repository.
        sha1: what the file's SHA-1 should be, where the entry says so.
        num_samples: take this many random rows; more than there are repeats some.
        ranking: the rows hold a chosen and a rejected answer.
        entry: where the entry stands, for messages: `data/dataset_info.json: my_chats`; None for a path.
    """

    name: str
    source_kind: SourceKind
    source: str
    path: Path | None
    formatting: str | None = "alpaca"
    columns: Columns = Columns()
    tags: Tags = Tags()
    listed: frozenset[str] = frozenset()
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    revision: str | None = None
    sha1: str | None = None
    num_samples: int | None = None
    ranking: bool = False
    entry: str | None = None

    @property
    def asks(self) -> str | None:
        """The column that a row's turns begin with: its messages, its prompt, or a history alone."""
        if self.formatting in CHAT_FORMATTINGS:
            return self.columns.messages
        return self.columns.prompt or self.columns.history

    @property
    def holds(self) -> str:
        """What the rows hold: conversation, preference, feedback, document or prompt."""
        if self.ranking:
            return "preference"
        if self.columns.kto_tag:
            return "feedback"
        if self.formatting in CHAT_FORMATTINGS or self.columns.response or not self.columns.prompt:
            return "conversation"
        return "document" if self.formatting == "alpaca" else "prompt"

    def needs(self, record: str) -> tuple[str, ...]:
        """The columns without which no row can become such a record."""
        chat = self.formatting in CHAT_FORMATTINGS
        asking: tuple[str, ...] = ("messages",) if chat else ("prompt",) if self.columns.prompt else ("history",)
        answer = ("response",) if not chat and self.columns.prompt else ()
        listed = f"columns.{asking[0]}" in self.listed
        return {
            "conversation": asking + answer,
            "feedback": (*asking, *answer, "kto_tag"),
            "preference": ((*asking,) if listed else ()) + ("chosen", "rejected"),
        }.get(record, asking)

    def where(self, key: str | None = None) -> str:
        """The place of a key in the registry, for an error's `at`."""
        if self.entry is None:
            return str(self.path or self.source)
        return f"{self.entry}.{key}" if key else self.entry

    def identity(self) -> dict[str, Any]:
        """All that decides how rows become records, without paths: part of the data's fingerprint."""
        known = asdict(self)
        for key in ("path", "entry", "listed", "source", "revision", "sha1"):
            del known[key]
        return known
