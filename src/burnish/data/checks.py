"""Whether a dataset can be read at all, and fits what it is wanted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.data.detect import guess
from burnish.data.spec import CHAT_FORMATTINGS, COLUMN_NAMES, DatasetSpec
from burnish.errors import DataError
from burnish.registry import nearest

STAGE_RECORD = {
    "sft": "conversation",
    "pt": "document",
    "dpo": "preference",
    "rm": "preference",
    "kto": "feedback",
    "ppo": "prompt",
    "grpo": "prompt",
    "rloo": "prompt",
}
"""Stage → the kind of record it trains on."""
_MADE_FROM = {"prompt": ("conversation", "document", "prompt")}
"""Kind of record → what a dataset may hold to yield it; by default the same kind."""
_HELD = {
    "conversation": "conversations",
    "preference": "preference pairs",
    "feedback": "judged answers",
    "document": "plain text",
    "prompt": "prompts without answers",
}
_MEDIA = ("images", "videos", "audios")
_OPTIONAL = ("query", "history", "system", "tools", "margin")
_WORTH_A_NOTE = ("system", "history", "tools", "input", "context")


class Seen:
    """The keys that the rows read so far have, and the first row."""

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.message_keys: dict[str, None] = {}
        self.rows: list[Any] = []
        self._last: list[Any] = []  # the keys of the row before: rows are mostly alike

    def add(self, row: Any, spec: DatasetSpec) -> None:
        """Take note of a row's keys and, in message formats, of its first message's keys."""
        if type(row) is not dict and not isinstance(row, Mapping):
            return
        if len(self.rows) < 20:
            self.rows.append(row)
        keys = list(row)
        if keys != self._last:
            self.keys.update(dict.fromkeys(keys))
            self._last = keys
        messages = row.get(spec.columns.messages) if spec.columns.messages else None
        if isinstance(messages, list) and messages and isinstance(messages[0], Mapping):
            self.message_keys.update(dict.fromkeys(messages[0]))

    def unread(self, spec: DatasetSpec) -> list[str]:
        """A note where the data has well-known columns that the dataset does not map."""
        mapped = {getattr(spec.columns, name) for name in COLUMN_NAMES}
        left = [key for key in _WORTH_A_NOTE if key in self.keys and key not in mapped]
        if not left:
            return []
        return [f"{spec.name}: not read, as columns does not list them: {', '.join(left)}"]


def check_stage(spec: DatasetSpec, stage: str) -> None:
    """Raise DataError where the stage needs another kind of record than the dataset holds."""
    record = STAGE_RECORD.get(stage)
    if record is None:
        raise DataError(f"unknown stage '{stage}'", at="stage", fix=f"known: {', '.join(STAGE_RECORD)}")
    for name in _MEDIA:
        if getattr(spec.columns, name):
            raise DataError(
                f"'{spec.name}' holds {name}; Burnish trains on text",
                at=spec.where(f"columns.{name}"),
                fix="choose a dataset of text",
            )
    if spec.holds not in _MADE_FROM.get(record, (record,)):
        fits = [name for name, kind in STAGE_RECORD.items() if kind == spec.holds]
        fix = f"set stage to {' or '.join(fits)}, or choose another dataset"
        if record == "document":
            fix = f'list the column of the text: "columns": {{"prompt": "text"}}, or {fix}'
        if spec.holds == "document" and "columns.prompt" in spec.listed:
            fix = f'list the answer\'s column as "response" under columns, or set stage to {fits[0]}'
        raise DataError(
            f"'{spec.name}' holds {_HELD[spec.holds]}, which stage '{stage}' cannot train on",
            at=spec.where(),
            fix=fix,
        )


def check_columns(spec: DatasetSpec, seen: Seen, record: str, *, whole: bool) -> None:
    """Raise DataError where a column that the dataset maps is in none of the rows.

    Args:
        spec: the dataset.
        record: the kind of record that its rows shall become.
        seen: the keys of the rows so far.
        whole: these are all the rows; until then, columns that a row may lack are not missed.
    """
    if not seen.rows:
        return
    needed = spec.needs(record)
    in_a_list = record == "preference" and spec.columns.response in seen.keys  # the oldest form of a pair
    for name in dict.fromkeys((*needed, *_OPTIONAL)):
        column, listed = getattr(spec.columns, name), f"columns.{name}" in spec.listed
        missed = (listed and whole) or (name in needed and not (in_a_list and name in ("chosen", "rejected")))
        if column is not None and column not in seen.keys and missed:
            where = spec.where(f"columns.{name}" if listed else None)
            raise DataError(
                f"column '{column}' is not in the data",
                at=where,
                fix=_which(column, list(seen.keys), spec, seen),
            )
    if spec.formatting not in CHAT_FORMATTINGS or not seen.message_keys:
        return
    for name in ("role_tag", "content_tag"):
        tag = getattr(spec.tags, name)
        if tag is not None and tag not in seen.message_keys:
            where = spec.where(f"tags.{name}" if f"tags.{name}" in spec.listed else None)
            raise DataError(
                f"no message has the key '{tag}'",
                at=where,
                fix=_which(tag, list(seen.message_keys), spec, seen, of="a message"),
            )


def _which(wanted: str, there: list[str], spec: DatasetSpec, seen: Seen, of: str = "the file") -> str:
    close = nearest(wanted, there)
    start = f"did you mean '{close[0]}'? " if close else ""
    fix = f"{start}{of} has: {', '.join(there[:12])}" + (", …" if len(there) > 12 else "")
    looks = guess(seen.rows, spec)
    if not close and looks is not None and looks[0].formatting != spec.formatting:
        fix += f'; it looks like {looks[1]}: set "formatting": "{looks[0].formatting}"'
    return fix
