"""What the doctor asks a run's model: prompts of its own data, and how likely it finds their answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from burnish import log
from burnish.data.records import Sample
from burnish.evaluate.paired import bootstrap_mean
from burnish.evaluate.predict import Item, answer_ids, answer_items, make_items, question_of
from burnish.evaluate.scoring import Continuation, likelihoods
from burnish.evaluate.text_metrics import similarities
from burnish.generate.chat import ChatModel
from burnish.generate.engine import Engine
from burnish.runs.doctor.probe import Asked, Dependence, Mean, Said
from burnish.template import ChatTemplate

ANSWER_TOKENS = 128
"""Of an answer whose loss is measured; what follows is not looked at."""
_CONTEXT_TOKENS = 1024  # of a prompt before it; what is further back is not looked at
_FEWEST = 8  # rows of a dataset from which on it has a figure of its own


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its answer. `item` is what `predict` asks, `ids` the answer with its stop token."""

    item: Item
    file: str
    question: str
    ids: tuple[int, ...]
    stops: bool  # whether the last id is a stop token


@dataclass(frozen=True, slots=True)
class Likely:
    """How likely a model finds the answers of some pairs: mean nats a token of each.

    `other`: after another row's prompt; None where there is none. `stops`: the probability of the stop token after an
    answer; None where the answer is too long to be seen whole or has none.
    """

    own: list[float]
    other: list[float | None]
    stops: list[float | None]


def pairs_of(samples: Iterable[Sample], template: ChatTemplate, room: int) -> list[Pair]:
    """Prompts with their answers; rows without one, and prompts of more than `room` tokens, are left out."""
    samples = list(samples)
    found = []
    for sample, item in zip(samples, make_items(samples, template, room), strict=True):
        question, answer = question_of(sample.record, sample)
        if item.skipped or answer is None:
            continue
        ids = tuple(answer_ids(template, question, answer))
        if ids:
            found.append(Pair(item, sample.file, question.turns[-1].content, ids, ids[-1] in template.stop_ids))
    return found


def ask(chat: ChatModel, pairs: Sequence[Pair], *, batch_size: int, seed: int) -> tuple[Said, ...]:
    """Answer prompts greedily, as `predict` does.

    An answer may have a quarter more tokens than its reference and 16, and no more than the model's sampling says.
    """
    engine = Engine(chat.model, slots=batch_size, pad_id=chat.template.tokenizer.pad_token_id or 0)
    lengths = {pair.item.place: len(pair.ids) for pair in pairs}
    lines: dict[int, dict[str, Any]] = {}
    greedy = replace(chat, sampling=replace(chat.sampling, do_sample=False, max_length=None))
    answer_items(
        greedy,
        engine,
        [pair.item for pair in pairs],
        lambda line: lines.update({line["index"]: line}),
        seed=seed,
        total=len(pairs),
        limit=lambda item: min(lengths[item.place] * 5 // 4 + 16, chat.sampling.max_new_tokens),
    )
    texts = [lines[pair.item.place]["prediction"] for pair in pairs]
    references = [str(pair.item.reference) for pair in pairs]
    alike = similarities(texts, references)
    return tuple(
        Said(
            *(pair.item.dataset, pair.file, pair.item.row, pair.question, reference, text, exact, likeness),
            ended=lines[pair.item.place]["finish_reason"] == "stop",
        )
        for pair, reference, text, (exact, likeness) in zip(pairs, references, texts, alike, strict=True)
    )


def strangers(pairs: Sequence[Pair]) -> list[int | None]:
    """For each pair the place of another one of its dataset whose prompt is a different one; None where it has none.

    The rows of a dataset are turned by half their number, so that each prompt is taken once.
    """
    found: list[int | None] = [None] * len(pairs)
    datasets: dict[str, list[int]] = {}
    for place, pair in enumerate(pairs):
        datasets.setdefault(pair.item.dataset, []).append(place)
    for places in datasets.values():
        for number, place in enumerate(places):
            other = places[(number + len(places) // 2) % len(places)]
            found[place] = other if pairs[other].item.ids != pairs[place].item.ids else None
    return found


def measure(model: Any, pairs: Sequence[Pair], title: str = "measuring") -> Likely:
    """How likely a model finds answers after their own prompts, after those of strangers, and that they end there.

    Args:
        model: a causal language model of transformers, in eval mode.
    """
    others = strangers(pairs)
    asked: list[tuple[str, int, Continuation]] = []
    for place, (pair, other) in enumerate(zip(pairs, others, strict=True)):
        whole = len(pair.ids) <= ANSWER_TOKENS
        answer = pair.ids[:ANSWER_TOKENS]
        asked.append(("own", place, Continuation(pair.item.ids, answer)))
        if other is not None:
            asked.append(("other", place, Continuation(pairs[other].item.ids, answer)))
        if whole and pair.stops and len(answer) > 1:
            asked.append(("stop", place, Continuation((*pair.item.ids, *answer[:-1]), answer[-1:])))
    window = min(_window(model), _CONTEXT_TOKENS + ANSWER_TOKENS)
    with log.progress(title, len(asked)) as bar:
        scores = likelihoods(model, [one for _, _, one in asked], window=window, on_done=bar.advance)
    nats = {(kind, place): score.nats for (kind, place, _), score in zip(asked, scores, strict=True)}

    def loss(kind: str, place: int) -> float | None:
        found = nats.get((kind, place))
        return None if found is None else -found / min(len(pairs[place].ids), ANSWER_TOKENS)

    places = range(len(pairs))
    return Likely(
        [-nats["own", place] / min(len(pairs[place].ids), ANSWER_TOKENS) for place in places],
        [loss("other", place) for place in places],
        [None if (found := nats.get(("stop", place))) is None else math.exp(found) for place in places],
    )


def _window(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or _CONTEXT_TOKENS)


def known_ids(model: Any, pairs: Sequence[Pair]) -> bool:
    """Whether a model has a row for every token of some pairs; a base lacks those that a run has added."""
    rows = model.get_input_embeddings().weight.shape[0]
    return max(max(max(pair.item.ids), max(pair.ids)) for pair in pairs) < rows


def found_on(pairs: Sequence[Pair], said: tuple[Said, ...], tuned: Likely, base: Likely | None) -> Asked:
    """Put together what was asked and measured on one kind of rows."""
    stops = [each for each in tuned.stops if each is not None]
    gains = [before - after for before, after in zip(base.own, tuned.own, strict=True)] if base else []
    return Asked(
        said=said,
        rows=len(pairs),
        loss=fmean(tuned.own),
        base_loss=fmean(base.own) if base else None,
        gain=_mean(gains) if gains else None,
        tuned=dependence(pairs, tuned),
        base=dependence(pairs, base) if base else (),
        stops=median(stops) if stops else None,
    )


def dependence(pairs: Sequence[Pair], likely: Likely) -> tuple[Dependence, ...]:
    """How much answers depend on their prompts: of each dataset with enough rows, else of all rows together."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for pair, own, other in zip(pairs, likely.own, likely.other, strict=True):
        if other is not None:
            groups.setdefault(pair.item.dataset, []).append((own, other))
    kept = {name: part for name, part in groups.items() if len(part) >= _FEWEST}
    if not kept or len(groups) == 1:
        everything = [each for part in groups.values() for each in part]
        kept = {"": everything} if len(everything) >= _FEWEST else {}
    return tuple(
        Dependence(
            *(name, len(part), fmean(own for own, _ in part), fmean(other for _, other in part)),
            gain=_mean([other - own for own, other in part]),
        )
        for name, part in kept.items()
    )


def _mean(values: Sequence[float]) -> Mean:
    return Mean(fmean(values), *bootstrap_mean(values))
