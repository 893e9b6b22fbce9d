"""Which rows a conversation becomes, and where in each row an answer begins and ends.

Some templates rewrite earlier turns once later ones follow: Qwen3 drops old reasoning, others move the system turn.
One row then cannot show every answer in the context that inference gives it. A plan keeps together the answers that
one rendering shows rightly, and gives the others a row of their own. Each answer is trained once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from burnish.data.records import Conversation
from burnish.errors import TemplateError
from burnish.template.encode import Encoder
from burnish.template.example import Piece
from burnish.template.render import CannotRender

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate


SHORT_CHARS = 200
"""Characters after a control token, up to which an edge is found by tokenizing what lies between."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a row's text: "prompt", "answer" or "tail", and the turn an answer belongs to."""

    kind: str
    start: int
    end: int
    turn: int | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One row: its text (control tokens in people's words are marked) and the spans that cover it.

    `conversation` is what the text shows. `closing_id` is a token to add after the last answer, where the template
    leaves the end open.
    """

    conversation: Conversation
    text: str
    spans: tuple[Span, ...]
    closing_id: int | None = None


@dataclass(frozen=True, slots=True)
class _Shown:
    """An answer as the last turn: the text up to and with it, where it begins, and where its stop token ends."""

    text: str
    begin: int
    stop: int | None


def make_plans(
    template: ChatTemplate, conversation: Conversation, *, last_only: bool, split: bool | None
) -> list[Plan]:
    """See `ChatTemplate.plans`; the conversation is already completed."""
    turns = conversation.turns
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    messages, tools = template.marked_messages(conversation)
    if not answers:
        text = template.render(messages, tools, False)
        return [Plan(conversation, text, (Span("prompt", 0, len(text)),))]
    shown = {index: _show(template, messages, tools, index) for index in (answers[-1:] if last_only else answers)}
    left = list(shown)
    groups: list[list[int]] = []
    while left:
        whole = shown[left[-1]].text
        together = [left[-1]] if split else [i for i in left if i == left[-1] or _faithful(shown[i], whole)]
        groups.append(together)
        left = [index for index in left if index not in together]
    groups.reverse()
    groups = [group for group in groups if any(turns[index].weight for index in group)] or groups
    if split is False and len(groups) > 1:
        raise TemplateError(
            f"template '{template.name}' cannot show every answer of a conversation in one row: it changes earlier "
            "answers once later turns follow (it may drop their reasoning, or leave their end open)",
            at=f"turn {groups[0][-1]}",
            fix="leave split_turns out to make a row for each such answer, or set mask_history: true",
        )
    return [_plan(template, conversation, shown, group) for group in groups]


def _show(template: ChatTemplate, messages: list[dict[str, Any]], tools: list[Any], index: int) -> _Shown:
    before = template.render(messages[:index], tools, True)
    text = template.render(messages[: index + 1], tools, False)
    if not text.startswith(before):
        raise CannotRender(
            f"template '{template.name}' cannot show an answer as inference would see it: what it writes for the "
            "answer does not begin with its own generation prompt",
            at=f"turn {index}",
            fix="choose another template, or mend this one (`burnish templates show NAME` prints both)",
        )
    encoder = template.encoder
    ends = [match for match in encoder.controls_in(text[len(before) :]) if match[0] in template.stop_names]
    if not encoder.guards:  # then an answer may itself spell stop tokens; the template's own comes after them
        said = [messages[index].get(key) for key in ("reasoning_content", "content", "tool_calls")]
        words = json.dumps(said, ensure_ascii=False)
        spelt = sum(match[0] in template.stop_names for match in encoder.controls_in(words))
        ends = ends[spelt:]
    return _Shown(text, len(before), len(before) + ends[0].end() if ends else None)


def _faithful(answer: _Shown, whole: str) -> bool:
    """Whether a longer text shows an answer, and all before it, as it was when it was the last turn."""
    return answer.stop is not None and whole.startswith(answer.text[: answer.stop])


def _plan(template: ChatTemplate, conversation: Conversation, shown: dict[int, _Shown], group: Sequence[int]) -> Plan:
    whole = shown[group[-1]]
    turns = conversation.turns
    if group[-1] < len(turns) - 1:
        conversation = replace(conversation, turns=turns[: group[-1] + 1])
    spans: list[Span] = []
    at = 0
    for index in group:
        answer = shown[index]
        stop = len(answer.text) if answer.stop is None else answer.stop
        spans.append(Span("prompt", at, answer.begin))
        spans.append(Span("answer", answer.begin, stop, index, turns[index].weight))
        at = stop
        if stop < len(answer.text) and whole.text.startswith(answer.text):
            spans.append(Span("tail", stop, len(answer.text), index))
            at = len(answer.text)
    if at < len(whole.text):
        spans.append(Span("prompt", at, len(whole.text)))
    closing = template.terminator_id if whole.stop is None else None
    return Plan(conversation, whole.text, tuple(spans), closing)


def encode_plans(encoder: Encoder, plans: Sequence[Plan]) -> list[list[Piece]]:
    """Tokenize rows and cut them into pieces, each answer after exactly what stands before it.

    Control tokens cut a text into parts that are tokenized on their own. So a row is tokenized once, and a span begins
    so many ids after the last control token before it as the words between them have. Where a token reaches over an
    edge of a span, the row's spans are tokenized one by one: the model reads the prompt before the answer is there.
    """
    wholes = encoder.encode_all([plan.text for plan in plans])
    return [
        _pieces(plan, _cut(encoder, plan, whole) or _one_by_one(encoder, plan))
        for plan, whole in zip(plans, wholes, strict=True)
    ]


def _pieces(plan: Plan, ids: list[list[int]]) -> list[Piece]:
    row = [Piece(part, span.kind, span.weight, span.turn) for part, span in zip(ids, plan.spans, strict=True)]
    if plan.closing_id is not None:
        row[-1] = replace(row[-1], ids=[*row[-1].ids, plan.closing_id])
    return [piece for piece in row if piece.ids or piece.kind == "answer"]


def _cut(encoder: Encoder, plan: Plan, ids: list[int]) -> list[list[int]] | None:
    """The ids of each span out of the ids of the whole row; None where an edge lies within a token."""
    controls = encoder.controls_in(plan.text)
    names = encoder.control_ids
    places = [place for place, token in enumerate(ids) if token in names]
    if len(places) != len(controls):
        return None
    cuts = [0]
    number = -1  # the last control token that begins before the edge
    for span in plan.spans:
        edge = span.end
        while number + 1 < len(controls) and controls[number + 1].start() < edge:
            number += 1
        if edge == len(plan.text):
            cuts.append(len(ids))
            continue
        start, first = (0, 0) if number < 0 else (controls[number].start(), places[number])
        if number >= 0 and controls[number].end() == edge:
            cuts.append(first + 1)
            continue
        if edge - start > SHORT_CHARS or (number >= 0 and encoder.is_wide(controls[number][0])):
            return None
        words = encoder.encode_short(plan.text[start:edge])
        if tuple(ids[first : first + len(words)]) != words:
            return None
        cuts.append(first + len(words))
    return [ids[start:end] for start, end in pairwise(cuts)]


def _one_by_one(encoder: Encoder, plan: Plan) -> list[list[int]]:
    edges = encoder.edges(plan.text)
    place = 0
    found: list[list[int]] = []
    for span in plan.spans:
        while place + 1 < len(edges) and edges[place + 1] < span.start:
            place += 1
        anchor = edges[place] if edges and edges[place] < span.start else 0
        head = encoder.encode(plan.text[anchor : span.start])
        whole = encoder.encode(plan.text[anchor : span.end])
        joins = whole[: len(head)] != head
        found.append(encoder.encode(plan.text[span.start : span.end]) if joins else whole[len(head) :])
    return found
