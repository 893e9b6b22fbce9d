"""What a judge said: a grade, a choice, or nonsense, which is told as such and never becomes a number."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from burnish.evaluate.judging.prompts import CHOICES, HIGH, LOW
from burnish.evaluate.text_metrics import without_thoughts
from burnish.rewards.judge import read_score
from burnish.rewards.records import Unanswered

_BETTER = re.compile(r"\"?\bbetter\b\"?\s*[:=]\s*[\"'\[]*\s*(A|B|tie)\b", re.IGNORECASE)
_WORDS = {choice.lower(): choice for choice in CHOICES} | {"平局": "tie"}


@dataclass(frozen=True, slots=True)
class Judgement:
    """One reply, read. Exactly one of `grade`, `choice` and `fault` is there.

    Attributes:
        grade: 1 to 10.
        choice: A, B or tie.
        fault: why the reply has neither.
        reason: the judge's own words.
    """

    grade: float | None = None
    choice: str | None = None
    fault: str | None = None
    reason: str = ""


def read_reply(kind: str, text: str, finish: str) -> Judgement:
    """Read a reply to a grading (`kind` is score) or a comparing prompt (better).

    A JSON object in it wins; else the last `score: 7` or `better: A` counts. A reply that was cut off counts only if
    its object is whole: what an unfinished one mentions need not be its verdict.

    Args:
        finish: how it ended, as OpenAI's protocol says it: stop, length.
    """
    [said] = without_thoughts([text])
    found = _object(said, kind)
    if found is None and finish == "length":
        return Judgement(fault="the reply was cut off before its verdict (--judge-max-tokens)", reason=said)
    reason = str(found.get("reason") or "") if found else said
    if not said.strip():
        return Judgement(fault="the reply was empty")
    if kind == "score":
        read = read_score(json.dumps({"score": found["score"]}) if found else said, LOW, HIGH)
        if isinstance(read, Unanswered):
            return Judgement(fault=read.why.replace("got", "the reply has", 1), reason=reason)
        return Judgement(grade=read, reason=reason)
    choice = _choice(found, said)
    if choice is None:
        return Judgement(fault=f"the reply chooses neither A nor B nor tie: {' '.join(said.split())[:80]!r}")
    return Judgement(choice=choice, reason=reason)


def _choice(found: dict[str, Any] | None, said: str) -> str | None:
    if found is not None:
        return _WORDS.get(str(found["better"]).strip().strip("[]").lower())
    named = _BETTER.findall(said)
    return _WORDS[named[-1].lower()] if named else None


def _object(text: str, field: str) -> dict[str, Any] | None:
    """The last whole JSON object in a text that has the field."""
    decoder, found, place = json.JSONDecoder(), None, text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        else:
            if isinstance(value, dict) and field in value:
                found = value
        place = text.find("{", end)
    return found
