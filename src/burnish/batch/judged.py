"""Judged answers as examples: a chosen and a rejected answer to one prompt, or one answer with its mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from burnish.batch.chunks import (
    DROPPED_NOT_RENDERED,
    Builder,
    Chunk,
    LabelOptions,
    conversation_chunk,
    where,
    with_headers,
    without_old_rounds,
)
from burnish.batch.truncation import FittedPair, fit_pair, size
from burnish.data.records import Conversation, Feedback, Preference, Sample, Turn
from burnish.errors import DataError, TemplateError
from burnish.template import ChatTemplate, Piece, Plan
from burnish.template.render import CannotRender


def preference_chunk(samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions) -> Chunk:
    """Render, label and fit pairs: each sample gives two examples, the chosen answer, then the rejected one.

    The first has mark 1, the second 0 or minus the pair's margin.

    Both begin with the very same tokens, up to where the answers begin; only what follows is trained. A pair is
    dropped as a whole. `train_on_prompt`, `mask_history` and `split_turns` mean nothing here.

    Raises:
        DataError, TemplateError: as `chunks.conversation_chunk`.
    """
    built = Builder()
    planned: list[tuple[int, tuple[Plan, Plan]]] = []
    for place, sample in enumerate(samples):
        try:
            planned.append((place, _plan_pair(sample, template)))
        except CannotRender as error:
            if options.on_bad_row == "error":
                raise
            built.dropped[DROPPED_NOT_RENDERED] += 1
            built.bad.append(f"{where(sample)}: {error.what}")
    rows = template.encode_plans([plan for _, plans in planned for plan in plans])
    for number, (place, plans) in enumerate(planned):
        pair = _fit(samples[place], plans, (rows[2 * number], rows[2 * number + 1]), template, options)
        if pair.examples is None:
            built.dropped[pair.reason or "unknown"] += 1
            continue
        built.shortened += bool(pair.cut)
        chosen, rejected = pair.examples
        built.add(chosen, place)
        built.add(replace(rejected, mark=-_margin(samples[place])), place)
    return built.chunk()


def _plan_pair(sample: Sample, template: ChatTemplate) -> tuple[Plan, Plan]:
    record = sample.record
    if not isinstance(record, Preference):
        raise DataError(
            f"this stage needs a better and a worse answer, not {type(record).__name__}",
            at=where(sample),
            fix="choose the stage that fits this data",
        )
    try:
        return _plan(record, record.chosen, template), _plan(record, record.rejected, template)
    except TemplateError as error:
        raise type(error)(error.what, at=f"{where(sample)}, {error.at}", fix=error.fix) from error


def _margin(sample: Sample) -> float:
    return getattr(sample.record, "margin", None) or 0.0


def _plan(record: Preference, answer: tuple[Turn, ...], template: ChatTemplate) -> Plan:
    """One row of a pair. Where the answer is several turns, all that the assistant says in them is trained."""
    before = tuple(replace(turn, weight=0.0) for turn in record.prompt.turns)
    turns = (*before, *(replace(turn, weight=1.0) for turn in answer))
    single = sum(turn.role == "assistant" for turn in answer) == 1
    plans = template.plans(Conversation(turns, record.prompt.tools), last_only=single)
    if len(plans) > 1:
        raise CannotRender(
            f"template '{template.name}' cannot show the turns of an answer in one row: it changes earlier ones",
            at="the answer",
            fix="choose another template, or data whose answers are one turn",
        )
    return plans[0]


def _fit(
    sample: Sample, plans: tuple[Plan, Plan], rows: tuple[list[Piece], list[Piece]], template: ChatTemplate,
    options: LabelOptions,
) -> FittedPair:  # fmt: skip
    longer = int(size(rows[1]) > size(rows[0]))
    left_out = 0
    if size(rows[longer]) > options.limits.cutoff_len and options.limits.overlong == "truncate":
        plan, row = without_old_rounds(plans[longer], rows[longer], template, options)
        left_out = size(rows[longer]) - size(row)
        if left_out:
            other = plans[1 - longer].conversation.turns[-1]
            turns = (*plan.conversation.turns[:-1], other)
            [again] = template.plans(replace(plan.conversation, turns=turns), last_only=True)
            [row_again] = template.encode_plans([again])
            plans = (again, plan) if longer else (plan, again)
            rows = (row_again, row) if longer else (row, row_again)
    if options.limits.overlong == "truncate":
        rows = (with_headers(plans[0], rows[0], template), rows[1])
    prompt, chosen = _parted(rows[0])
    _, rejected = _parted(rows[1])
    fitted = fit_pair(prompt, chosen, rejected, options.limits, where=where(sample))
    return replace(fitted, cut=fitted.cut + left_out) if left_out else fitted


def _parted(row: Sequence[Piece]) -> tuple[Piece, list[Piece]]:
    """A row as its prompt and what is judged: from the first trained answer to the last one's stop token."""
    answers = [place for place, piece in enumerate(row) if piece.kind == "answer" and piece.weight]
    first, last = (answers[0], answers[-1]) if answers else (len(row), len(row))
    before = row[:first]
    header = before[-1].header if before else 0
    prompt = Piece([token for piece in before for token in piece.ids], "prompt", header=header)
    return prompt, list(row[first : last + 1])


def feedback_chunk(samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions) -> Chunk:
    """Render, label and fit answers with a mark: 1 for a desirable one, 0 for an undesirable one.

    Only the last answer of a conversation is trained, for it is the one that was judged.

    Raises:
        DataError, TemplateError: as `chunks.conversation_chunk`.
    """
    judged: list[Sample] = []
    marks: list[bool] = []
    for sample in samples:
        if not isinstance(sample.record, Feedback):
            raise DataError(
                f"kto needs answers that are marked useful or not, not {type(sample.record).__name__}",
                at=where(sample),
                fix="choose the stage that fits this data",
            )
        turns = tuple(replace(turn, weight=1.0) for turn in sample.record.conversation.turns)
        judged.append(replace(sample, record=replace(sample.record.conversation, turns=turns)))
        marks.append(sample.record.desirable)
    last_only = replace(options, mask_history=True, train_on_prompt=False, split_turns=None)
    chunk = conversation_chunk(judged, template, last_only)
    return replace(chunk, marks=np.array(marks, dtype=np.float32)[chunk.owners])
