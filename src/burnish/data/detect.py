"""What a file is, told from its first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.data.messages import message_list
from burnish.data.rows import BadRow
from burnish.data.spec import NO_COLUMNS, OPENAI_TAGS, Columns, DatasetSpec, Tags
from burnish.errors import DataError

_MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
_HISTORY_COLUMNS = ("history", *_MESSAGE_COLUMNS)
_SYSTEM_COLUMNS = ("system", "prefix")
_PAIRS = (
    ("prompt", "completion", "prompt_completion"),
    ("prompt", "response", "alpaca"),
    ("prompt", "output", "alpaca"),
    ("prompt", "answer", "alpaca"),
    ("question", "answer", "alpaca"),
    ("question", "response", "alpaca"),
    ("problem", "answer", "alpaca"),
    ("problem", "solution", "alpaca"),
    ("query", "response", "alpaca"),
    ("input", "output", "alpaca"),
)
_QUESTIONS = ("prompt", "question", "problem", "query", "instruction")
_JUDGEMENTS = ("label", "kto_tag")
_TEXT_COLUMNS = ("text", "content")
LABELS = {
    "alpaca": "alpaca",
    "sharegpt": "sharegpt",
    "openai": "openai messages",
    "prompt_completion": "prompt and completion",
}


Found = tuple[str, Columns, Tags]


def guess(rows: Sequence[Any], spec: DatasetSpec, record: str | None = None) -> tuple[DatasetSpec, str] | None:
    """Fill in formatting, columns and tags from the first rows.

    Args:
        rows: a few rows from the start of the data.
        spec: the dataset so far; its name and path are kept.
        record: the kind of record that is wanted, where rows could be read as several kinds.
    Returns:
        The spec and a few words on what it looks like, or None where the rows look like nothing known.
    """
    tables = [row for row in rows if isinstance(row, Mapping)]
    keys = {key: None for row in tables for key in row}
    system = next((name for name in _SYSTEM_COLUMNS if name in keys), None)
    extras = {"system": system, "tools": "tools" if "tools" in keys else None}
    found = _guess_text(tables) if record == "document" else None
    if found is None:
        found = _guess_messages(tables, _MESSAGE_COLUMNS, extras) or _guess_alpaca(keys, extras)
        found = found or _guess_pair(tables, keys, extras) or _guess_history(tables, extras)
        if found is None and record == "prompt":
            found = _guess_prompt(keys, extras)
    if found is None:
        return None
    formatting, columns, tags = found
    ranking = {"chosen", "rejected"} <= keys.keys()
    if ranking:
        has_margin = any(isinstance(row.get("margin"), int | float) for row in tables)
        columns = replace(columns, chosen="chosen", rejected="rejected", margin="margin" if has_margin else None)
    judged = next(
        (key for key in _JUDGEMENTS if any(_is_judgement(row.get(key), record == "feedback") for row in tables)), None
    )
    columns = replace(columns, kto_tag=judged)
    filled = replace(spec, formatting=formatting, columns=columns, tags=tags, ranking=ranking)
    if filled.holds == "document":
        return filled, "plain text"
    what = " with chosen and rejected answers" if ranking else " with a judgement" if judged else ""
    return filled, LABELS[formatting] + what


_TEXT: Found = ("alpaca", replace(NO_COLUMNS, prompt="text"), OPENAI_TAGS)


def _guess_text(rows: Sequence[Mapping[str, Any]]) -> Found | None:
    text = next((name for name in _TEXT_COLUMNS if any(isinstance(row.get(name), str) for row in rows)), None)
    return (_TEXT[0], replace(_TEXT[1], prompt=text), _TEXT[2]) if text else None


def _is_judgement(value: object, wanted: bool) -> bool:
    """Whether a label says good or bad; numbers may mean anything, unless judgements are `wanted`."""
    if isinstance(value, str):
        return value.strip().lower() in ("true", "false")
    return isinstance(value, bool) or (wanted and isinstance(value, int) and value in (0, 1))


def _messages_in(value: object) -> list[Mapping[str, Any]]:
    try:
        return [message for message in message_list(value, "") if isinstance(message, Mapping)]
    except BadRow:
        return []


def _guess_messages(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], extras: dict[str, str | None]
) -> Found | None:
    for key in columns:
        messages = [message for row in rows for message in _messages_in(row.get(key))]
        found = replace(NO_COLUMNS, messages=key, **extras)
        if any("role" in message for message in messages):
            return "openai", found, OPENAI_TAGS
        if any("from" in message for message in messages):
            roles = {message.get("from") for message in messages if isinstance(message.get("from"), str)}
            own = bool(roles & {"human", "gpt"})
            tags = Tags() if own else replace(OPENAI_TAGS, role_tag="from", content_tag="value")
            return "sharegpt", found, tags
    return None


def _guess_alpaca(keys: Mapping[str, None], extras: dict[str, str | None]) -> Found | None:
    if "instruction" not in keys or not keys.keys() & {"output", "response", "chosen"}:
        return None
    response = next((name for name in ("output", "response") if name in keys), None)
    query = next((name for name in ("input", "context") if name in keys), None)
    history = "history" if "history" in keys else None
    columns = replace(NO_COLUMNS, prompt="instruction", query=query, response=response, history=history, **extras)
    return "alpaca", columns, OPENAI_TAGS


def _guess_pair(
    rows: Sequence[Mapping[str, Any]], keys: Mapping[str, None], extras: dict[str, str | None]
) -> Found | None:
    if {"chosen", "rejected"} <= keys.keys():
        return _guess_preference(rows, keys, extras)
    for prompt, response, formatting in _PAIRS:
        if prompt in keys and response in keys:
            history = "history" if "history" in keys and formatting == "alpaca" else None
            columns = replace(NO_COLUMNS, prompt=prompt, response=response, history=history, **extras)
            return formatting, columns, OPENAI_TAGS
    return _TEXT if "text" in keys else None


def _guess_preference(
    rows: Sequence[Mapping[str, Any]], keys: Mapping[str, None], extras: dict[str, str | None]
) -> Found | None:
    """A prompt column with two answers, or two whole conversations."""
    prompt = next((name for name in _QUESTIONS if name in keys), None)
    lists = any(isinstance(row.get(name), list) for row in rows for name in (prompt or "", "chosen"))
    if prompt is not None:
        columns = replace(NO_COLUMNS, prompt=prompt, **extras)
        return "prompt_completion" if lists else "alpaca", columns, OPENAI_TAGS
    whole = _guess_messages(rows, ("chosen",), extras)
    return (whole[0], replace(whole[1], messages=None), whole[2]) if whole else None


def _guess_history(rows: Sequence[Mapping[str, Any]], extras: dict[str, str | None]) -> Found | None:
    """Nothing but pairs of question and answer."""
    for key in _HISTORY_COLUMNS:
        pairs = [row[key][0] for row in rows if isinstance(row.get(key), list) and row[key]]
        if any(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return "alpaca", replace(NO_COLUMNS, history=key, **extras), OPENAI_TAGS
    return None


def _guess_prompt(keys: Mapping[str, None], extras: dict[str, str | None]) -> Found | None:
    prompt = next((name for name in _QUESTIONS if name in keys), None)
    if prompt is None:
        return None
    return "prompt_completion", replace(NO_COLUMNS, prompt=prompt, **extras), OPENAI_TAGS


def detect(rows: Sequence[Any], spec: DatasetSpec, record: str | None = None) -> tuple[DatasetSpec, str]:
    """`guess`, with a note for the user. Raises DataError where the rows look like nothing known."""
    found = guess(rows, spec, record)
    if found is None:
        keys = list({key: None for row in rows if isinstance(row, Mapping) for key in row})
        ways = "or write the rows as messages, or as prompt and completion"
        if record == "document":
            ways = 'the text\'s as "prompt", or call it text'
        raise DataError(
            "the format of the rows is not known",
            at=spec.where(),
            fix=f"the file has: {', '.join(map(str, keys[:12])) or 'no objects'}; name its columns in "
            f"dataset_info.json, {ways}",
        )
    columns = found[0].columns
    used = [getattr(columns, name) for name in columns.__dataclass_fields__]
    return found[0], f"{spec.name}: read as {found[1]}, by its first rows ({', '.join(filter(None, used))})"
