"""Samples to examples, some hundred at a time: the unit of work of a process, and what it hands back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from burnish.batch.quick import Compared, QuickRows, quick_rows
from burnish.batch.truncation import DROPPED_NO_LABEL, DROPPED_TOO_LONG, Fitted, Limits, fit, size
from burnish.data.records import Conversation, Document, Sample
from burnish.errors import DataError, TemplateError
from burnish.template import ChatTemplate, Example, Piece, Plan
from burnish.template.example import IGNORED
from burnish.template.render import CannotRender

DROPPED_NOT_RENDERED = "the template cannot render it"
CHUNK = 500
"""Samples a chunk holds."""


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What becomes of a rendered conversation.

    `split_turns`: True makes a row for each answer, False refuses where one row cannot show them all, None does what
    is needed. `on_bad_row`: "drop" or "error" for a row that the template cannot render.
    """

    limits: Limits = field(default_factory=Limits)
    train_on_prompt: bool = False
    mask_history: bool = False
    split_turns: bool | None = None
    on_bad_row: str = "drop"


@dataclass(slots=True)
class Chunk:
    """The examples of a chunk of samples as arrays, small to send and to store.

    `ids` [tokens] int32, one example after another; `ends` [examples] int64, where each ends; `trained` [tokens] bool;
    `weights` [tokens] float32, or None when every trained token weighs 1; `owners` [examples] int64, the place of
    each example's sample among the samples that went in. Drops, truncated and added rows are counted; `bad` describes
    samples that the template could not render. `marks` [examples] float32, or None when all are 0. `records`: of each
    example the record it was made from, as text, where something besides the tokens is needed later.
    """

    ids: np.ndarray
    ends: np.ndarray
    trained: np.ndarray
    weights: np.ndarray | None
    owners: np.ndarray
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: int = 0
    split: int = 0
    bad: list[str] = field(default_factory=list)
    marks: np.ndarray | None = None
    records: list[str] | None = None

    def examples(self) -> Iterator[tuple[Example, int]]:
        """The examples, each with the place of its sample."""
        start = 0
        marks = [0.0] * len(self.ends) if self.marks is None else self.marks.tolist()
        for end, owner, mark in zip(self.ends.tolist(), self.owners.tolist(), marks, strict=True):
            weights = None if self.weights is None else self.weights[start:end]
            yield example_of(self.ids[start:end], self.trained[start:end], weights, mark), owner
            start = end


def example_of(ids: np.ndarray, trained: np.ndarray, weights: np.ndarray | None, mark: float = 0.0) -> Example:
    """An example from its arrays."""
    labels = np.where(trained, ids, IGNORED).tolist()
    plain = weights is None or bool(((weights == 0) | (weights == 1)).all())
    return Example(ids.tolist(), labels, None if plain or weights is None else weights.tolist(), mark)


MakeChunk = Callable[[Sequence[Sample], ChatTemplate, LabelOptions], Chunk]
"""What turns samples into a chunk; found by its name in another process."""


class Builder:
    """Gathers examples into a Chunk."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.weights: list[float] = []
        self.weighted = False
        self.ends: list[int] = []
        self.owners: list[int] = []
        self.marks: list[float] = []
        self.dropped: Counter[str] = Counter()
        self.shortened = self.split = 0
        self.bad: list[str] = []

    def add(self, example: Example, owner: int) -> None:
        """Append an example of the sample at a place."""
        self.ids += example.input_ids
        self.labels += example.labels
        if example.weights is not None and not self.weighted:
            self.weighted = True
            self.weights = [float(label != IGNORED) for label in self.labels[: len(self.labels) - len(example.labels)]]
        if self.weighted:
            self.weights += example.weights or [float(label != IGNORED) for label in example.labels]
        self.ends.append(len(self.ids))
        self.owners.append(owner)
        self.marks.append(example.mark)

    def chunk(self) -> Chunk:
        """What was gathered."""
        return Chunk(
            np.array(self.ids, dtype=np.int32),
            np.array(self.ends, dtype=np.int64),
            np.array(self.labels, dtype=np.int64) != IGNORED,
            np.array(self.weights, dtype=np.float32) if self.weighted else None,
            np.array(self.owners, dtype=np.int64),
            self.dropped,
            self.shortened,
            self.split,
            self.bad,
            np.array(self.marks, dtype=np.float32) if any(self.marks) else None,
        )


def where(sample: Sample) -> str:
    """A sample's dataset and row, for messages."""
    return f"{sample.dataset}, row {sample.row}"


# -- conversations --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row of a sample with what it was made from; `plan` and `row` are as rendered, `fitted` as trained."""

    plan: Plan
    row: list[Piece]
    fitted: Fitted


def plan_sample(sample: Sample, template: ChatTemplate, options: LabelOptions) -> list[Plan]:
    """The rows of one sample, as text. Raises TemplateError or DataError naming the dataset and row."""
    if not isinstance(sample.record, Conversation):
        raise DataError(
            f"supervised fine-tuning needs conversations, not {type(sample.record).__name__}",
            at=where(sample),
            fix="choose the stage that fits this data",
        )
    try:
        return template.plans(sample.record, last_only=options.mask_history, split=options.split_turns)
    except TemplateError as error:
        raise type(error)(error.what, at=f"{where(sample)}, {error.at}", fix=error.fix) from error


def label_sample(sample: Sample, template: ChatTemplate, options: LabelOptions) -> list[Labelled]:
    """`prepare_sample` with the plans and pieces, for showing."""
    plans = plan_sample(sample, template, options)
    rows = template.encode_plans(plans)
    fitted = _fit_rows(sample, plans, rows, template, options)
    return [Labelled(*parts) for parts in zip(plans, rows, fitted, strict=True)]


def prepare_sample(sample: Sample, template: ChatTemplate, options: LabelOptions) -> list[Fitted]:
    """Render, label and fit one sample. Raises TemplateError or DataError naming the dataset and row."""
    return [labelled.fitted for labelled in label_sample(sample, template, options)]


def conversation_chunk(samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions) -> Chunk:
    """Render, label and fit conversations, tokenizing them all at once.

    Raises:
        DataError, TemplateError: as `prepare_sample`; a row that the template cannot render is dropped and counted
            unless `on_bad_row` is "error".
    """
    quick = quick_rows(
        samples,
        template,
        most=_least(options.limits),
        last_only=options.mask_history,
        split=options.split_turns is True,
        whole=options.train_on_prompt,
    )
    if quick is None:
        return _one_by_one(samples, range(len(samples)), template, options)
    for compared in quick.compare:
        if not _same(compared, quick, samples[compared.place], template, options):
            template.shapes.forget(compared.shape)
            return conversation_chunk(samples, template, options)
    rest = np.setdiff1d(np.arange(len(samples)), quick.owners, assume_unique=True).tolist()
    made = Chunk(quick.ids, quick.ends, quick.trained, None, quick.owners)
    return _merged(made, _one_by_one(samples, rest, template, options)) if rest else made


def _one_by_one(
    samples: Sequence[Sample], places: Iterable[int], template: ChatTemplate, options: LabelOptions
) -> Chunk:
    """What becomes of some of the samples, the thorough way."""
    built = Builder()
    planned: list[tuple[int, list[Plan]]] = []
    for place in places:
        sample = samples[place]
        try:
            planned.append((place, plan_sample(sample, template, options)))
        except CannotRender as error:
            if options.on_bad_row == "error":
                raise
            built.dropped[DROPPED_NOT_RENDERED] += 1
            built.bad.append(f"{where(sample)}: {error.what}")
    rows = iter(template.encode_plans([plan for _, plans in planned for plan in plans]))
    for place, plans in planned:
        fitted = _fit_rows(samples[place], plans, list(islice(rows, len(plans))), template, options)
        kept = [one for one in fitted if one.example is not None]
        for one in fitted:
            if one.example is not None:
                built.shortened += bool(one.cut)
                built.add(one.example, place)
            elif one.reason != DROPPED_NO_LABEL or not kept:
                built.dropped[one.reason or "unknown"] += 1
        built.split += max(0, len(kept) - 1)
    return built.chunk()


def _same(compared: Compared, quick: QuickRows, sample: Sample, template: ChatTemplate, options: LabelOptions) -> bool:
    """Whether the thorough way makes the same of a row. Raises RuntimeError where other rows were already made so."""
    row = int(np.searchsorted(quick.owners, compared.place))
    part = slice(int(quick.ends[row - 1]) if row else 0, int(quick.ends[row]))
    found = example_of(quick.ids[part], quick.trained[part], None)
    if [found] == [fitted.example for fitted in prepare_sample(sample, template, options)]:
        return True
    if not compared.first:
        raise RuntimeError(f"{where(sample)}: template '{template.name}' renders it in another way than its shape says")
    return False


def _merged(one: Chunk, other: Chunk) -> Chunk:
    """Two chunks of different samples as one, in the order of the samples."""
    order = np.argsort(np.concatenate([one.owners, other.owners]), kind="stable")
    lengths = np.concatenate([np.diff(one.ends, prepend=0), np.diff(other.ends, prepend=0)])
    starts = np.cumsum(lengths) - lengths
    ends = np.cumsum(lengths[order])
    # where each token of the merged chunk stands among those of the two, one after another
    source = np.arange(int(lengths.sum())) + np.repeat(starts[order] - (ends - lengths[order]), lengths[order])
    weights = None
    if other.weights is not None:
        weights = np.concatenate([one.trained.astype(np.float32), other.weights])[source]
    return replace(
        other,
        ids=np.concatenate([one.ids, other.ids])[source],
        ends=ends,
        trained=np.concatenate([one.trained, other.trained])[source],
        weights=weights,
        owners=np.concatenate([one.owners, other.owners])[order],
    )


def _fit_rows(
    sample: Sample, plans: Sequence[Plan], rows: Sequence[list[Piece]], template: ChatTemplate, options: LabelOptions
) -> list[Fitted]:
    fitted: list[Fitted] = []
    for number, (plan, row) in enumerate(zip(plans, rows, strict=True)):
        pieces, left_out, seen = row, 0, 0
        tokens = size(row)
        if tokens > options.limits.cutoff_len and options.limits.overlong == "truncate":
            plan, pieces = without_old_rounds(plan, row, template, options)
            left_out = tokens - size(pieces)
        if options.limits.overlong == "truncate" and (left_out or tokens > _least(options.limits)):
            pieces = with_headers(plan, pieces, template)
        if options.train_on_prompt and number:  # what comes before is trained in the rows before this one
            seen = _before_words(plan, template)
        one = fit(pieces, options.limits, train_on_prompt=options.train_on_prompt, seen=seen, where=where(sample))
        fitted.append(replace(one, cut=one.cut + left_out) if left_out else one)
    return fitted


def _least(limits: Limits) -> int:
    """The fewest tokens that any limit may cut."""
    return min(limits.cutoff_len, limits.max_source or limits.cutoff_len, limits.max_target or limits.cutoff_len)


def with_headers(plan: Plan, row: list[Piece], template: ChatTemplate) -> list[Piece]:
    """Prompts that know how many tokens the template writes after their last words; only for rows that are cut."""
    known: list[Piece] = []
    for piece, following in zip(row, [*row[1:], None], strict=True):
        if piece.kind == "prompt" and following is not None and following.turn is not None:
            around = template.around_words(plan.conversation, following.turn)
            header = len(template.encoder.encode_short(around[1])) if around else 0
            piece = replace(piece, header=min(header, len(piece.ids)))
        known.append(piece)
    return known


def _before_words(plan: Plan, template: ChatTemplate) -> int:
    """Tokens of a row before the words that its first answer replies to."""
    first = next((span.turn for span in plan.spans if span.turn is not None), None)
    around = None if first is None else template.around_words(plan.conversation, first)
    return len(template.encode(around[0])) if around and plan.text.startswith(around[0]) else 0


def without_old_rounds(
    plan: Plan, row: list[Piece], template: ChatTemplate, options: LabelOptions
) -> tuple[Plan, list[Piece]]:
    """A too long row whose last answer alone is trained, rendered again without its oldest rounds so that it fits.

    Inference that forgets old turns sees just that. First go whole rounds, then, in the last one, the oldest tool
    calls with their results. Rows that train several answers stay as they are.
    """
    trained = [span for span in plan.spans if span.kind == "answer" and span.weight]
    last = len(plan.conversation.turns) - 1
    if len(trained) != 1 or trained[0].turn != last:
        return plan, row
    fewer = shorter(plan.conversation)
    low, high = 0, len(fewer)  # the first that fits lies in fewer[low:high + 1]
    best = plan, row
    while low < high:
        middle = (low + high) // 2
        [again] = template.plans(fewer[middle], last_only=True)
        [pieces] = template.encode_plans([again])
        if size(pieces) <= options.limits.cutoff_len:
            best, high = (again, pieces), middle
        else:
            low = middle + 1
            if size(best[1]) > options.limits.cutoff_len:  # none fits yet: the shortest is the best there is
                best = again, pieces
    return best


def shorter(conversation: Conversation) -> list[Conversation]:
    """The conversation without its first round, without its first two, and so on; then without old tool calls."""
    turns = conversation.turns
    first = 1 if turns[0].role == "system" else 0
    asked = [index for index, turn in enumerate(turns) if turn.role == "user"]
    found = [(*turns[:first], *turns[index:]) for index in asked[1:]]
    if asked:
        answers = [index for index in range(asked[-1] + 1, len(turns)) if turns[index].role == "assistant"]
        found += [(*turns[:first], turns[asked[-1]], *turns[index:]) for index in answers[1:]]
    return [replace(conversation, turns=each) for each in found]


# -- documents ------------------------------------------------------------------------------------------------


def document_chunk(samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions) -> Chunk:
    """Plain text to examples of which every token is trained: `bos t1 … tn eos`.

    A document longer than `cutoff_len` becomes several examples (`overlong: truncate`), so no text is lost.

    Raises:
        DataError: a record is no document, or is too long and `overlong` is "error".
    """
    built = Builder()
    limit = options.limits.cutoff_len
    texts = []
    for sample in samples:
        if not isinstance(sample.record, Document):
            raise DataError(
                f"pretraining needs plain text, not {type(sample.record).__name__}",
                at=where(sample),
                fix="choose the stage that fits this data",
            )
        texts.append(sample.record.text)
    for place, ids in enumerate(template.documents(texts)):
        if len(ids) > limit and options.limits.overlong == "error":
            raise DataError(
                f"a document has {len(ids)} tokens, more than cutoff_len {limit}",
                at=where(samples[place]),
                fix="raise cutoff_len, or set overlong: truncate (it is then cut into parts) or drop",
            )
        if len(ids) > limit and options.limits.overlong == "drop":
            built.dropped[DROPPED_TOO_LONG] += 1
            continue
        lengths = document_parts(len(ids), limit)
        built.split += len(lengths) - 1
        start = 0
        for length in lengths:
            part = ids[start : start + length]
            built.add(Example(part, part), place)
            start += length
    return built.chunk()


def document_parts(tokens: int, limit: int) -> list[int]:
    """The lengths of the parts that a document of so many tokens is cut into; together they are all of it."""
    lengths = [min(limit, tokens - start) for start in range(0, tokens, limit)]
    if len(lengths) > 1 and lengths[-1] < 2 <= limit:  # a lone token has nothing to be predicted from
        lengths[-2:] = [lengths[-2] - 1, 2]
    return lengths
