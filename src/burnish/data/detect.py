"""What a file is, told from its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.data.spec import NO_COLUMNS, OPENAI_TAGS, Columns, DatasetSpec, Tags
from burnish.errors import DataError

_MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
_PAIRS = (
    ("prompt", "completion", "prompt_completion"),
    ("prompt", "response", "alpaca"),
    ("question", "answer", "alpaca"),
    ("query", "response", "alpaca"),
    ("input", "output", "alpaca"),
)
_JUDGEMENTS = ("label", "kto_tag")
LABELS = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "openai": "openai messages",
    "prompt_completion": "prompt and completion",
}


def guess(rows: Sequence[Any], spec: DatasetSpec) -> tuple[DatasetSpec, str] | None:
    """Fill in formatting, columns and tags from the first rows.

    Args:
        rows: a few rows from the start of the data.
        spec: the dataset so far; its name and path are kept.
    Returns:
        The spec and a few words on what it looks like, or None where the rows look like nothing known.
    """
    tables = [row for row in rows if isinstance(row, Mapping)]
    keys = {key: None for row in tables for key in row}
    extras = {name: name if name in keys else None for name in ("system", "tools")}
    found = _guess_messages(tables, extras) or _guess_alpaca(keys, extras) or _guess_pair(tables, keys, extras)
    if found is None:
        return None
    formatting, columns, tags = found
    ranking = {"chosen", "rejected"} <= keys.keys()
    if ranking:
        columns = replace(columns, chosen="chosen", rejected="rejected")
    judged = next((key for key in _JUDGEMENTS if any(isinstance(row.get(key), bool) for row in tables)), None)
    columns = replace(columns, kto_tag=judged)
    filled = replace(spec, formatting=formatting, columns=columns, tags=tags, ranking=ranking)
    if filled.holds == "document":
        return filled, "plain text"
    what = " with chosen and rejected answers" if ranking else " with a judgement" if judged else ""
    return filled, LABELS[formatting] + what


def _guess_messages(
    rows: Sequence[Mapping[str, Any]], extras: dict[str, str | None]
) -> tuple[str, Columns, Tags] | None:
    for key in _MESSAGE_COLUMNS:
        lists = [row[key] for row in rows if isinstance(row.get(key), list)]
        messages = [message for held in lists for message in held if isinstance(message, Mapping)]
        columns = replace(NO_COLUMNS, messages=key, **extras)
        if any("role" in message for message in messages):
            return "openai", columns, OPENAI_TAGS
        if any("from" in message for message in messages):
            roles = {message.get("from") for message in messages if isinstance(message.get("from"), str)}
            own = bool(roles & {"human", "gpt"})
            tags = Tags() if own else replace(OPENAI_TAGS, role_tag="from", content_tag="value")
            return "sharegpt", columns, tags
    return None


def _guess_alpaca(keys: Mapping[str, None], extras: dict[str, str | None]) -> tuple[str, Columns, Tags] | None:
    if "instruction" not in keys or not keys.keys() & {"output", "response", "chosen"}:
        return None
    response = next((name for name in ("output", "response") if name in keys), None)
    query = "input" if "input" in keys else None
    history = "history" if "history" in keys else None
    columns = replace(NO_COLUMNS, prompt="instruction", query=query, response=response, history=history, **extras)
    return "alpaca", columns, OPENAI_TAGS


def _guess_pair(
    rows: Sequence[Mapping[str, Any]], keys: Mapping[str, None], extras: dict[str, str | None]
) -> tuple[str, Columns, Tags] | None:
    for prompt, response, formatting in _PAIRS:
        if prompt in keys and response in keys:
            return formatting, replace(NO_COLUMNS, prompt=prompt, response=response, **extras), OPENAI_TAGS
    if "prompt" in keys and {"chosen", "rejected"} <= keys.keys():
        lists = any(isinstance(row.get("prompt"), list) for row in rows)
        return (
            "prompt_completion" if lists else "alpaca",
            replace(NO_COLUMNS, prompt="prompt", **extras),
            OPENAI_TAGS,
        )
    if "text" in keys:
        return "alpaca", replace(NO_COLUMNS, prompt="text"), OPENAI_TAGS
    return None


def detect(rows: Sequence[Any], spec: DatasetSpec) -> tuple[DatasetSpec, str]:
    """`guess`, with a note for the user. Raises DataError where the rows look like nothing known."""
    found = guess(rows, spec)
    if found is None:
        keys = list({key: None for row in rows if isinstance(row, Mapping) for key in row})
        raise DataError(
            "the format of the rows is not known",
            at=spec.where(),
            fix=f"the file has: {', '.join(map(str, keys[:12])) or 'no objects'}; name its columns in "
            "dataset_info.json, or write the rows as messages, or as prompt and completion",
        )
    columns = found[0].columns
    used = [getattr(columns, name) for name in columns.__dataclass_fields__]
    return found[0], f"{spec.name}: read as {found[1]}, by its first rows ({', '.join(filter(None, used))})"
