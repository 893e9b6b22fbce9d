"""From settings to examples: read, label, keep in the cache, split and mix. Shared by `train` and `data inspect`."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np

from burnish import log
from burnish.batch.store import Counts, Selection, StoredSet
from burnish.batch.windows import Windows
from burnish.config import Settings
from burnish.data.corpus import Corpus
from burnish.data.iterate import Tally
from burnish.data.load import Loaded, load_samples
from burnish.data.mix import interleave
from burnish.data.mixture import Mixture
from burnish.data.split import held_out
from burnish.errors import DataError
from burnish.model.load import load_tokenizer, read_stop_ids
from burnish.model.source import ModelSource
from burnish.model.vocabulary import extend_tokenizer, new_tokens
from burnish.template import ChatTemplate, load_template
from burnish.train.engine import Engine
from burnish.train.lanes import Source, StreamOptions
from burnish.train.origin import hub_arguments
from burnish.train.sets import (
    counts_of,
    data_folder,
    data_seed,
    label_key,
    label_options,
    prepare_into,
    prepared_set,
    reading,
    sets_folder,
    workers,
)
from burnish.train.stages import Stage
from burnish.train.stream import StreamPlan

TrainSet = Selection | Windows


@dataclass
class RunData:
    """What a run trains and evaluates on. `eval` has the name "" for a single evaluation set.

    `train` is None for a stream; `source` then gives its samples. `unit`: examples a sample is.
    `teaches_stop`: the share of its examples that train a stop token; None where no answers are trained.
    """

    train: TrainSet | None
    eval: dict[str, TrainSet]
    counts: Counts
    fingerprint: str = field(default="")
    source: Source | None = None
    unit: int = 1
    teaches_stop: float | None = None

    def record(self) -> dict[str, Any]:
        """The `data` part of run.json; a stream's numbers come at the end of the run."""
        if self.train is None:
            return {"streaming": True, "eval_rows": self._held_out}
        return {
            "rows_read": self.counts.rows_read,
            "rows_used": self.train.rows,
            "samples": len(self.train) // self.unit,
            "eval_rows": self._held_out,
            "dropped": dict(self.counts.dropped),
            "shortened": self.counts.shortened,
            "split": self.counts.split,
            "teaches_stop": self.teaches_stop,
            "tokens": int(self.train.lengths.sum()),
            "supervised_tokens": int(self.train.supervised.sum()),
            "fingerprint": self.fingerprint,
        }

    @property
    def _held_out(self) -> int:
        return sum(len(one) for one in self.eval.values()) // self.unit


def build_template(settings: Settings, source: ModelSource, today: datetime | None = None) -> ChatTemplate:
    """The tokenizer with the template the settings name; no weights are read.

    A model that was already tuned brings the template it was trained with.

    Args:
        today: the day for templates that print it, so that a resumed run renders as it began.
    """
    model, hub = settings.model, hub_arguments(settings)
    tokenizer = load_tokenizer(source, trust_remote_code=model.trust_remote_code, **hub)
    extend_tokenizer(tokenizer, new_tokens(model.add_tokens, model.add_special_tokens, model.new_special_tokens_config))
    data = settings.data
    name = data.template or source.template
    template = load_template(
        tokenizer,
        name,
        default_system=data.default_system or source.default_system,
        extra_stop_ids=read_stop_ids(source, **hub),
        tool_format=data.tool_format,
        enable_thinking=data.enable_thinking,
        preserve_thinking=data.preserve_thinking,
        split_special_tokens=data.split_special_tokens,
        today=today,
    )
    if name is None and template.name == "default" and settings.tuning.stage != "pt":
        log.note("the tokenizer has no chat template; using `default` (Human: … / Assistant: …)")
    for line in template.notes:
        log.note(line)
    return template


def read_samples(settings: Settings, names: Sequence[str]) -> Loaded:
    """Read the named datasets into memory and say what a user should know about them."""
    loaded = load_samples(names, data_folder(settings), on_bad_row=settings.data.on_bad_row, **reading(settings))
    for line in loaded.notes:
        log.note(line)
    for bad in loaded.bad_rows:
        log.note(f"dropped {bad.dataset}, row {bad.row}: {bad.reason}")
    return loaded


def build_data(settings: Settings, template: ChatTemplate, stage: Stage) -> RunData:
    """Prepare all data of a run, or take it from the cache. Raises DataError where nothing is left to train on."""
    data = settings.data
    if data.streaming:
        return _streamed(settings, template, stage)
    whole = prepared_set(settings, data.dataset, template, stage)
    counts = counts_of(whole)
    evaluation: dict[str, Selection] = {}
    if data.eval_dataset:
        evaluation, dropped = _evaluation(settings, template, stage)
        counts.dropped += dropped
        train = _all_of(whole)
    else:
        train, held_back = _split(whole, data.val_size, data_seed(settings))
        if len(held_back):
            evaluation = {"": held_back}
    train = _mixed(train, settings, stage.unit)
    shaped = {name: _shaped(one, settings) for name, one in evaluation.items()}
    shaped_train, fingerprint = _shaped(train, settings), whole.about["fingerprint"]
    taught = _teaches_stop(train, template.stop_ids) if stage.chats else None
    return RunData(shaped_train, shaped, counts, fingerprint, unit=stage.unit, teaches_stop=taught)


_LOOKED_AT, _TOGETHER = 1000, 10
"""Examples that are looked at, which tells the share to a few percent, and how many of them lie side by side: a place
of the file that is looked at takes memory around it.
"""


def _teaches_stop(examples: Selection, stop_ids: Collection[int]) -> float:
    """The share of examples with a stop token among their labels: what was cut, or a template without one, has none."""
    stops = set(stop_ids)
    step = max(1, len(examples) // _LOOKED_AT) * _TOGETHER
    chosen = [
        place
        for first in range(0, len(examples), step)
        for place in range(first, min(first + _TOGETHER, len(examples)))
    ]
    return round(sum(not stops.isdisjoint(examples[place].labels) for place in chosen) / max(len(chosen), 1), 4)


def without_overwriting(settings: Settings) -> Settings:
    """The settings of a process that takes the data another one has just prepared."""
    return replace(settings, data=settings.data.model_copy(update={"overwrite_cache": False}))


def _shaped(examples: Selection, settings: Settings) -> TrainSet:
    return Windows(examples, settings.data.cutoff_len) if wants_windows(settings) else examples


def wants_windows(settings: Settings) -> bool:
    """Whether documents are joined and cut into windows."""
    data = settings.data
    return settings.tuning.stage == "pt" and data.packing and not data.neat_packing


def _evaluation(settings: Settings, template: ChatTemplate, stage: Stage) -> tuple[dict[str, Selection], Counter[str]]:
    held = prepared_set(settings, settings.data.eval_dataset, template, stage, what="eval")
    evaluation = {"": _all_of(held)}
    if settings.data.eval_on_each_dataset:
        evaluation = {name: _of_dataset(held, number) for number, name in enumerate(held.about["datasets"])}
    return evaluation, counts_of(held).dropped


def _streamed(settings: Settings, template: ChatTemplate, stage: Stage) -> RunData:
    """A stream, whose samples are prepared while the run goes on; what is held out is prepared now."""
    data = settings.data
    corpus = Corpus(data.dataset, data_folder(settings), on_bad_row=data.on_bad_row, **reading(settings))
    for number in range(len(corpus.specs)):
        corpus.opened(number)  # what is wrong with the first rows shows before the model is loaded
    for line in corpus.notes:
        log.note(line)
    source: Source = corpus
    takes_turns = data.mix_strategy != "concat" and len(data.dataset) > 1
    if takes_turns:
        _check_probabilities(settings, list(data.dataset))
    if takes_turns or any(spec.num_samples for spec in corpus.specs):
        source = Mixture(corpus, data.mix_strategy, data.interleave_probs, data_seed(settings))
    evaluation: dict[str, Selection] = {}
    if data.eval_dataset:
        evaluation, _ = _evaluation(settings, template, stage)
    elif data.val_size:
        samples = source.read()
        target = sets_folder() / f"stream-{uuid.uuid4().hex[:16]}"
        held, labels = islice(samples, int(data.val_size)), label_key(settings, template)
        evaluation = {"": _all_of(prepare_into(settings, held, Tally(), template, stage, target, labels))}
        source.hold_out(samples, int(data.val_size))
    shaped = {name: _shaped(one, settings) for name, one in evaluation.items()}
    key = hashlib.sha256(f"{label_key(settings, template)} {corpus.identity()}".encode()).hexdigest()
    return RunData(None, shaped, Counts(), key, source, stage.unit)


def stream_plan(settings: Settings, data: RunData, template: ChatTemplate, stage: Stage, engine: Engine) -> StreamPlan:
    """The plan of a run on streamed data; of a stage that answers prompts, one that every process reads alike."""
    assert data.source is not None
    kept, training = settings.data, settings.training
    pack = "windows" if wants_windows(settings) else "whole" if kept.packing and not stage.rollouts else "no"
    shuffle = not settings.tuning.disable_shuffling
    options = StreamOptions(
        kept.buffer_size, kept.cutoff_len, pack, shuffle, data_seed(settings), workers(settings), stage.unit
    )
    parts = (data.source, template, label_options(settings), stage.chunk, options)
    if stage.rollouts:
        return StreamPlan(*parts, batch_rows=1, accumulation=1)
    return StreamPlan(
        *parts,
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
        engine.num_processes,
        engine.process_index,
        engine.gather_objects,
    )


# -- parts of sets --------------------------------------------------------------------------------------------


def _all_of(stored: StoredSet) -> Selection:
    return Selection(stored, np.arange(len(stored)))


def _of_dataset(stored: StoredSet, number: int) -> Selection:
    return Selection(stored, np.flatnonzero(stored.keys[:, 0] == number))


def _split(stored: StoredSet, val_size: float, seed: int) -> tuple[Selection, Selection]:
    """Hold rows out for evaluation; all samples that one row became stay on one side."""
    if not val_size:
        return _all_of(stored), Selection(stored, np.arange(0))
    places: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # dataset → (its examples, the row of each, by number)
    for number, name in enumerate(stored.about["datasets"]):
        examples = np.flatnonzero(stored.keys[:, 0] == number)
        _, first, row = np.unique(stored.keys[examples, 1:], axis=0, return_index=True, return_inverse=True)
        ranks = np.empty(len(first), dtype=np.int64)
        ranks[np.argsort(first)] = np.arange(len(first))
        places[name] = examples, ranks[row.reshape(-1)]
    held = held_out({name: int(rows.max()) + 1 for name, (_, rows) in places.items()}, val_size, seed)
    mask = np.zeros(len(stored), dtype=bool)
    for name, positions in held.items():
        examples, rows = places[name]
        mask[examples[np.isin(rows, positions)]] = True
    return Selection(stored, np.flatnonzero(~mask)), Selection(stored, np.flatnonzero(mask))


def _mixed(train: Selection, settings: Settings, unit: int) -> Selection:
    """The training examples in the order that `mix_strategy` asks for; those of one sample stay side by side."""
    strategy = settings.data.mix_strategy
    if strategy == "concat" or len(train.names) < 2:
        return train
    datasets = train.datasets
    kinds = np.unique(datasets)
    if len(kinds) < 2:
        return train

    def starts(numbers: np.ndarray) -> Any:
        def start() -> Iterator[int]:
            return iter(numbers.tolist())

        return start

    sources = [starts(train.numbers[datasets == kind][::unit]) for kind in kinds]
    _check_probabilities(settings, train.base.about["datasets"])
    order = interleave(sources, strategy, settings.data.interleave_probs, data_seed(settings))
    first = np.fromiter(order, dtype=np.int64)
    return Selection(train.base, (first[:, None] + np.arange(unit)).reshape(-1))


def _check_probabilities(settings: Settings, names: Sequence[str]) -> None:
    probs = settings.data.interleave_probs
    if probs and len(probs) != len(names):
        raise DataError(
            f"interleave_probs has {len(probs)} numbers for {len(names)} datasets",
            at="interleave_probs",
            fix=f"give one for each of: {', '.join(names)}",
        )
