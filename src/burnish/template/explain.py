"""Why each token of a row is trained or not: for people to look at, never for making labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from burnish.template.chat import ChatTemplate
from burnish.template.example import IGNORED, Example, Piece
from burnish.template.plan import Plan

TRAINED = {
    "answer": "the answer: trained",
    "stop": "the token that ends the answer: trained",
    "asked for": "not an answer, but train_on_prompt trains it",
    "text": "plain text: every token is trained",
}
MASKED = {
    "template": "written by the template",
    "system": "the system turn: read, not trained",
    "tools": "descriptions of tools: read, not trained",
    "user": "the user's words: read, not trained",
    "tool": "what a tool gave: read, not trained",
    "earlier": "an earlier answer, not trained in this row",
    "weightless": "an answer whose weight is 0",
    "after": "after the stop token: inference has ended here",
    "prompt": "before the answer that was judged: read, not trained",
    "cut": "left of a shortened prompt: read, not trained",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens in a row with one reason: a key of TRAINED or MASKED."""

    ids: list[int]
    reason: str

    @property
    def trained(self) -> bool:
        return self.reason in TRAINED

    @property
    def why(self) -> str:
        """The reason as a sentence."""
        return TRAINED.get(self.reason) or MASKED[self.reason]


def explain(template: ChatTemplate, plan: Plan, row: Sequence[Piece], example: Example) -> list[Stretch]:
    """An example's tokens in stretches, each with the reason for its labels.

    Args:
        plan, row: what the example was made from.
        example: after truncation; where that rearranged a prompt, its parts are no longer told apart.
    """
    reasons: list[str] = []
    for piece, (start, end) in _with_text(plan, row):
        if piece.kind == "answer":
            reasons += _of_answer(template, piece)
        elif piece.kind == "tail":
            reasons += ["after"] * len(piece.ids)
        else:
            reasons += _of_prompt(template, plan, piece, start, end)
    ids = [token for piece in row for token in piece.ids]
    if example.input_ids != ids[: len(example.input_ids)]:
        reasons = ["answer" if label != -100 else "cut" for label in example.labels]
    labelled = zip(example.input_ids, reasons, example.labels, strict=False)
    return list(_stretches((token, _final(reason, label)) for token, reason, label in labelled))


def explain_judged(template: ChatTemplate, example: Example) -> list[Stretch]:
    """The tokens of an answer that was judged, and of what stands before and after it."""
    labels = example.labels
    first = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    last = max((place for place, label in enumerate(labels) if label != IGNORED), default=-1)
    reasons = []
    for place, (token, label) in enumerate(zip(example.input_ids, labels, strict=True)):
        if label == IGNORED:
            reasons.append("prompt" if place < first else "after" if place > last else "tool")
        else:
            reasons.append("stop" if place == last and token in template.stop_ids else "answer")
    return list(_stretches(iter(zip(example.input_ids, reasons, strict=True))))


def _final(reason: str, label: int) -> str:
    if label != -100:
        return reason if reason in TRAINED else "asked for"
    return {"answer": "weightless", "stop": "weightless"}.get(reason, reason)


def _with_text(plan: Plan, row: Sequence[Piece]) -> Iterator[tuple[Piece, tuple[int, int]]]:
    spans = iter(plan.spans)
    for piece in row:
        span = next(each for each in spans if each.kind == piece.kind and each.turn == piece.turn)
        yield piece, (span.start, span.end)


def _of_answer(template: ChatTemplate, piece: Piece) -> list[str]:
    ends = bool(piece.ids) and piece.ids[-1] in template.stop_ids
    return ["answer"] * (len(piece.ids) - ends) + ["stop"] * ends


def _of_prompt(template: ChatTemplate, plan: Plan, piece: Piece, start: int, end: int) -> list[str]:
    """The reasons of a prompt's tokens; where a token reaches over an edge, the edge may be shown a token off."""
    reasons: list[str] = []
    for part_start, part_end, reason in _parts(template, plan):
        part_start, part_end = max(part_start, start), min(part_end, end)
        if part_start >= part_end:
            continue
        reasons += [reason] * len(template.encode(plan.text[part_start:part_end]))
    reasons = reasons[: len(piece.ids)]
    return reasons + ["template"] * (len(piece.ids) - len(reasons))


def _parts(template: ChatTemplate, plan: Plan) -> Iterator[tuple[int, int, str]]:
    """Where the words of each turn stand in a row's text."""
    at = 0
    described = not plan.conversation.tools
    for turn in plan.conversation.turns:
        words = template.encoder.guard(turn.content).strip()
        place = plan.text.find(words, at) if words else -1
        if place < 0:
            continue
        between = plan.text[at:place]
        if not described and turn.role != "system":
            described = True
            yield at, place, "tools"
        elif between:
            yield at, place, "template"
        yield place, place + len(words), "earlier" if turn.role == "assistant" else turn.role
        at = place + len(words)
    yield at, len(plan.text), "template"


def _stretches(tokens: Iterator[tuple[int, str]]) -> Iterator[Stretch]:
    ids: list[int] = []
    last = ""
    for token, reason in tokens:
        if ids and reason != last:
            yield Stretch(ids, last)
            ids = []
        ids.append(token)
        last = reason
    if ids:
        yield Stretch(ids, last)
