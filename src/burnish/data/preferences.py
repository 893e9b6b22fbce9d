"""Rows with a better and a worse answer, in the three shapes that people use."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from burnish.data.converters import asked, counted, read_chat, read_one, tools_of, with_system
from burnish.data.messages import Placed, arrange
from burnish.data.records import Conversation, Preference, Turn
from burnish.data.rows import BadRow, Row, as_text, column, shown
from burnish.data.spec import DatasetSpec


def preference(row: Row, spec: DatasetSpec, repairs: Counter[str]) -> Preference:
    """A prompt and two answers to it.

    The answers are texts, messages or lists of messages. Two whole conversations are cut where they part: what they
    share is the prompt. The oldest rows have one list of texts in the response column, the better one first.
    """
    chosen_key, rejected_key, better, worse = _both(row, spec)
    chosen, rejected = _answer(better, chosen_key, spec), _answer(worse, rejected_key, spec)
    margin = _margin(row, spec)
    whole = _is_whole(chosen)
    if whole != _is_whole(rejected):
        raise BadRow("chosen and rejected differ in shape", rejected_key, "one is a whole conversation")
    before, key = _before(row, spec, needed=not whole)
    tools = tools_of(row, spec)
    if whole:
        return replace(_cut(before, (chosen, chosen_key), (rejected, rejected_key), tools, repairs), margin=margin)
    prompt = counted(before, key, repairs, "prompt")
    placed = [(turn, key) for turn in prompt]
    return Preference(
        Conversation(prompt, tools),
        arrange([*placed, *chosen], chosen_key, "answer")[0][len(prompt) :],
        arrange([*placed, *rejected], rejected_key, "answer")[0][len(prompt) :],
        margin,
    )


def _margin(row: Row, spec: DatasetSpec) -> float | None:
    """How much better the chosen answer is; None where the dataset has no column that says so."""
    key = spec.columns.margin
    if key is None:
        return None
    value = column(row, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadRow("broken margin", key, f"{shown(value)}, not a number of 0 or more")
    return float(value)


def _both(row: Row, spec: DatasetSpec) -> tuple[str, str, object, object]:
    columns = spec.columns
    pair = row.get(columns.response) if columns.response else None
    if isinstance(pair, list) and (columns.chosen is None or columns.chosen not in row):
        if len(pair) < 2:
            raise BadRow("no pair of answers", columns.response, f"{len(pair)} in the list")
        return f"{columns.response}[0]", f"{columns.response}[1]", pair[0], pair[1]
    better, worse = column(row, columns.chosen), column(row, columns.rejected)
    return columns.chosen or "chosen", columns.rejected or "rejected", better, worse


def _answer(value: object, key: str, spec: DatasetSpec) -> list[Placed]:
    if isinstance(value, list):
        return read_chat(value, key, spec)
    if isinstance(value, Mapping):
        return [read_one(value, key, spec)]
    return [(Turn("assistant", as_text(value, key)), key)]


def _is_whole(placed: list[Placed]) -> bool:
    return bool(placed) and placed[0][0].role in ("system", "user")


def _before(row: Row, spec: DatasetSpec, *, needed: bool) -> tuple[list[Placed], str]:
    """The turns before the answers; whole conversations do without the column that holds them."""
    name = spec.asks
    if not needed and (name is None or row.get(name) is None):
        return with_system(row, spec, []), ""
    return asked(row, spec)


def _cut(
    before: list[Placed],
    better: tuple[list[Placed], str],
    worse: tuple[list[Placed], str],
    tools: tuple[dict[str, object], ...],
    repairs: Counter[str],
) -> Preference:
    chosen = counted(*better, repairs, "answer")
    rejected = counted(*worse, repairs, "answer")
    shortest = min(len(chosen), len(rejected))
    common = next((at for at in range(shortest) if chosen[at] != rejected[at]), shortest - 1)
    # The prompt must end where both go on with an answer.
    while common and not chosen[common].role == rejected[common].role == "assistant":
        common -= 1
    prompt = chosen[:common]
    if not any(turn.role == "user" for turn in prompt):
        raise BadRow("chosen and rejected have no common start", worse[1])
    asked_last = next((turn.content for turn, _ in reversed(before) if turn.role == "user"), None)
    if asked_last is not None and all(turn.content != asked_last for turn in prompt):
        raise BadRow("the prompt is not in chosen and rejected", better[1])
    system = [turn for turn, _ in before[:1] if turn.role == "system" and turn.content.strip()]
    if system and prompt[0].role != "system":
        prompt = (*system, *prompt)
    return Preference(Conversation(prompt, tools), chosen[common:], rejected[common:])
