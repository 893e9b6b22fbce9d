"""The answers that are judged: read from predictions.jsonl; those of two models are paired by their questions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from burnish.errors import DataError
from burnish.evaluate.text_metrics import without_thoughts

_ANSWERS, _REFERENCES = ("prediction", "predict"), ("reference", "label")  # ours, and LLaMA-Factory's


@dataclass(frozen=True, slots=True)
class Row:
    """One question with its answer.

    Attributes:
        place: where it stands, in words: `chats, row 3`.
        asked: the question without a template, as JSON; None where the file does not have it.
        prompt: the question as the model read it.
        question: as the judge reads it: one message alone, or all with their roles.
        last: what the user said last; its language chooses that of the prompt.
        answer: None where there is none, for the reason `skipped`.
        labels: the other columns of the line.
    """

    place: str
    asked: str | None
    prompt: str | None
    question: str
    last: str
    answer: str | None
    reference: str | None
    skipped: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: Path) -> list[Row]:
    """The rows of a predictions.jsonl, or of LLaMA-Factory's generated_predictions.jsonl.

    Raises:
        DataError: the file cannot be read, has no rows, or a line is no prediction.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the answers cannot be read: {getattr(error, 'strerror', None) or error}",
            at=str(path),
            fix="name a predictions.jsonl, as `burnish predict` writes it",
        ) from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    rows = [_parsed(line, f"{path}: line {number}", number) for number, line in lines]
    if not rows:
        raise DataError("there is no answer to judge: the file is empty", at=str(path), fix="burnish predict makes one")
    if all(row.answer is None for row in rows):
        why = Counter(row.skipped for row in rows).most_common(1)[0][0]
        raise DataError(f"none of the {len(rows)} rows has an answer: {why}", at=str(path), fix="see predict.json")
    return rows


def _parsed(text: str, at: str, number: int) -> Row:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise DataError("this line is no JSON", at=at, fix="remove it, or name a predictions.jsonl") from error
    if not isinstance(line, dict):
        raise DataError("this line is no JSON object", at=at, fix="remove it, or name a predictions.jsonl")
    return row_of(line, at, number)


def row_of(line: Mapping[str, Any], at: str, number: int) -> Row:
    """One line of predictions as a row.

    Args:
        at: where it stands, for errors.
        number: of the line, for lines that do not say where they come from.
    """
    said = next((name for name in _ANSWERS if name in line), None)
    if said is None or not ("prompt" in line or "messages" in line):
        fix = f"a line needs prompt and prediction; this one has {', '.join(map(str, line)) or 'nothing'}"
        raise DataError("this line is no prediction", at=at, fix=fix)
    for name in (said, *_REFERENCES, "prompt"):
        if not isinstance(line.get(name), str | None):
            raise DataError(f"'{name}' must be text", at=at, fix="mend the line, or make the file anew")
    answer = line[said]
    reference = next((line[name] for name in _REFERENCES if line.get(name) is not None), None)
    messages = line.get("messages")
    question, last = _spoken(messages, at) if messages is not None else (line["prompt"] or "", line["prompt"] or "")
    place = f"{line['dataset']}, row {line['row']}" if {"dataset", "row"} <= line.keys() else f"line {number}"
    return Row(
        place,
        None if messages is None else json.dumps(messages, sort_keys=True),
        line.get("prompt"),
        whole_text(question),
        last,
        None if answer is None else _alone(answer),
        None if reference is None else _alone(reference),
        None if answer is not None else str(line.get("skipped") or "it has no prediction"),
        {name: value for name, value in line.items() if name not in (said, *_REFERENCES, "prompt", "messages")},
    )


def _spoken(messages: Any, at: str) -> tuple[str, str]:
    """A conversation as text, and what was said last in it by the user."""
    whole = isinstance(messages, list) and messages and all(isinstance(one, dict) and "role" in one for one in messages)
    if not whole:
        raise DataError("'messages' must be a list of messages with role and content", at=at, fix="leave it out")
    said = [(str(one["role"]), _content(one)) for one in messages]
    last = next((text for role, text in reversed(said) if role == "user"), said[-1][1])
    if len(said) == 1:
        return said[0][1], last
    return "\n\n".join(f"[{role}]\n{text}" for role, text in said), last


def _content(message: Mapping[str, Any]) -> str:
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls") or ()]
    return "\n".join([str(message.get("content") or ""), *calls]).strip()


def _alone(text: str) -> str:
    return whole_text(without_thoughts([text])[0])


def whole_text(text: str) -> str:
    """A text without half characters, which can neither be sent nor written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def pair_rows(new: Sequence[Row], old: Sequence[Row]) -> tuple[list[tuple[Row, Row]], int]:
    """Bring the answers of two models to the same questions together; a question that stands twice is met twice.

    Questions are the same where their messages are; in files that lack these, where the prompts are.

    Returns:
        Pairs (new, old) in the order of `new`, also with rows that have no answer; and how many rows of either have no
        partner.
    Raises:
        DataError: not one question stands in both.
    """
    both = [*new, *old]
    key: Callable[[Row], str | None] = attrgetter("asked" if all(row.asked is not None for row in both) else "prompt")
    waiting: dict[str | None, list[Row]] = defaultdict(list)
    for row in reversed(old):
        waiting[key(row)].append(row)
    pairs = [(row, waiting[key(row)].pop()) for row in new if key(row) is not None and waiting[key(row)]]
    if not pairs:
        raise DataError(
            "the two models were not asked one common question",
            at=f"{new[0].place} and {old[0].place}",
            fix="predict the same data with both",
        )
    return pairs, len(new) + len(old) - 2 * len(pairs)
