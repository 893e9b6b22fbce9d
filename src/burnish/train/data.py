"""From settings to examples: read, split, render, label. Shared by `train` and `data inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish import log
from burnish.config import Settings
from burnish.data.load import Loaded, load_samples
from burnish.data.split import split_samples
from burnish.model.load import load_tokenizer, read_stop_ids
from burnish.model.source import ModelSource
from burnish.template import ChatTemplate, load_template
from burnish.train.prepare import LabelOptions, Prepared
from burnish.train.stages import Stage


@dataclass
class RunData:
    """What a run trains and evaluates on. `files` are the data files that were read."""

    train: Prepared
    eval: Prepared | None
    rows_read: int
    dropped: Counter[str]
    fingerprint: str
    files: tuple[Path, ...]

    def record(self) -> dict[str, Any]:
        """The `data` part of run.json."""
        return {
            "rows_read": self.rows_read,
            "rows_used": len(self.train.examples),
            "eval_rows": len(self.eval.examples) if self.eval else 0,
            "dropped": dict(self.dropped),
            "shortened": self.train.shortened,
            "tokens": self.train.tokens,
            "supervised_tokens": self.train.supervised_tokens,
            "fingerprint": self.fingerprint,
        }


def build_template(settings: Settings, source: ModelSource) -> ChatTemplate:
    """The tokenizer with the template the settings name; no weights are read.

    A model that was already tuned brings the template it was trained with.
    """
    model = settings.model
    hub = {"revision": model.model_revision, "cache_dir": model.cache_dir, "token": model.hf_hub_token}
    tokenizer = load_tokenizer(source, trust_remote_code=model.trust_remote_code, **hub)
    name = settings.data.template or source.template
    template = load_template(
        tokenizer,
        name,
        default_system=settings.data.default_system or source.default_system,
        extra_stop_ids=read_stop_ids(source, **hub),
    )
    if name is None and template.name == "default":
        log.note("the tokenizer has no chat template; using `default` (Human: … / Assistant: …)")
    return template


def label_options(settings: Settings) -> LabelOptions:
    """The settings that decide labels, as plain values."""
    data = settings.data
    return LabelOptions(data.cutoff_len, data.overlong, data.train_on_prompt, data.mask_history)


def read_samples(settings: Settings, names: Sequence[str]) -> Loaded:
    """Read the named datasets and say what a user should know about them."""
    loaded = load_samples(
        names,
        Path(settings.data.dataset_dir).expanduser(),
        stage=settings.tuning.stage,
        max_samples=settings.data.max_samples,
        on_bad_row=settings.data.on_bad_row,
        seed=data_seed(settings),
    )
    for line in loaded.notes:
        log.note(line)
    for bad in loaded.bad_rows:
        log.note(f"dropped {bad.dataset}, row {bad.row}: {bad.reason}")
    return loaded


def build_data(settings: Settings, template: ChatTemplate, stage: Stage) -> RunData:
    """Read, split and label all data of a run. Raises DataError where nothing is left to train on."""
    options = label_options(settings)
    loaded = read_samples(settings, settings.data.dataset)
    dropped = Counter(loaded.dropped)
    train_samples, eval_samples = loaded.samples, []
    files = list(loaded.files)
    if settings.data.eval_dataset:
        held_out = read_samples(settings, settings.data.eval_dataset)
        eval_samples = held_out.samples
        files += held_out.files
        dropped.update(held_out.dropped)
    elif settings.data.val_size:
        train_samples, eval_samples = split_samples(loaded.samples, settings.data.val_size, data_seed(settings))
    train = stage.prepare(train_samples, template, options)
    evaluation = stage.prepare(eval_samples, template, options, title="labelling eval") if eval_samples else None
    dropped.update(train.dropped)
    if evaluation:
        dropped.update(evaluation.dropped)
    return RunData(train, evaluation, loaded.rows_read, dropped, train.fingerprint(), tuple(files))


def data_seed(settings: Settings) -> int:
    """The seed of splits and of the order of samples."""
    seed = settings.training.data_seed
    return settings.training.seed if seed is None else seed
