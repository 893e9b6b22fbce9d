"""Prompts as examples without an answer, for stages that write their own; each keeps the record it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from burnish.batch.chunks import DROPPED_NOT_RENDERED, Builder, Chunk, LabelOptions, shorter, where
from burnish.batch.truncation import DROPPED_TOO_LONG
from burnish.data.records import Conversation, Prompt, Sample, ToolCall, Turn
from burnish.errors import DataError, TemplateError
from burnish.template import ChatTemplate, Example
from burnish.template.example import IGNORED
from burnish.template.render import CannotRender


def prompt_chunk(samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions) -> Chunk:
    """Render prompts up to where the assistant begins to speak; no token of them is trained.

    A prompt longer than `cutoff_len` loses its oldest rounds (`overlong: truncate`); its last question is never cut, so
    one that is too long by itself is dropped and counted.

    Raises:
        DataError: a record is no prompt, or is too long and `overlong` is "error".
        TemplateError: the template has no place for what a prompt holds.
    """
    built = Builder()
    records: list[str] = []
    for place, sample in enumerate(samples):
        record = sample.record
        if not isinstance(record, Prompt):
            raise DataError(
                f"this stage writes its own answers to prompts, and this is a {type(record).__name__}",
                at=where(sample),
                fix="choose the stage that fits this data",
            )
        try:
            ids, cut = _fitted(record.prompt, sample, template, options)
        except CannotRender as error:
            if options.on_bad_row == "error":
                raise
            built.dropped[DROPPED_NOT_RENDERED] += 1
            built.bad.append(f"{where(sample)}: {error.what}")
            continue
        except TemplateError as error:
            raise type(error)(error.what, at=f"{where(sample)}, {error.at}", fix=error.fix) from error
        if ids is None:
            built.dropped[DROPPED_TOO_LONG] += 1
            continue
        built.shortened += cut
        built.add(Example(ids, [IGNORED] * len(ids)), place)
        records.append(to_json(record))
    return replace(built.chunk(), records=records)


def _fitted(
    conversation: Conversation, sample: Sample, template: ChatTemplate, options: LabelOptions
) -> tuple[list[int] | None, bool]:
    """The ids of a prompt, and whether old rounds had to go; None where it is too long."""
    limits = options.limits
    longest = min(limits.cutoff_len, limits.max_source or limits.cutoff_len)
    ids = template.prompt_ids(conversation)
    if len(ids) <= longest:
        return ids, False
    if limits.overlong == "error":
        raise DataError(
            f"a prompt has {len(ids)} tokens, more than cutoff_len {longest}",
            at=where(sample),
            fix="raise cutoff_len, or set overlong: truncate or drop",
        )
    if limits.overlong == "truncate":
        for less in shorter(conversation):
            ids = template.prompt_ids(less)
            if len(ids) <= longest:
                return ids, True
    return None, False


def to_json(record: Prompt) -> str:
    """A prompt and its reference as text, to be kept beside its tokens."""
    kept = ("content", "weight")
    turns = [
        {key: value for key, value in asdict(turn).items() if value or key in kept} for turn in record.prompt.turns
    ]
    return json.dumps({"turns": turns, "tools": record.prompt.tools, "reference": record.reference}, ensure_ascii=False)


def from_json(text: str) -> Prompt:
    """What `to_json` wrote."""
    made: dict[str, Any] = json.loads(text)
    turns = tuple(_turn(turn) for turn in made["turns"])
    return Prompt(Conversation(turns, tuple(made["tools"])), made["reference"])


def _turn(values: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(**call) for call in values.get("tool_calls", ()))
    return Turn(**{**values, "tool_calls": calls})
