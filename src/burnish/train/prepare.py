"""Samples to examples: render, label, fit into cutoff_len; every drop is counted by its reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from burnish import log
from burnish.batch.truncation import Fitted, fit
from burnish.data.records import Conversation, Sample
from burnish.errors import DataError, TemplateError
from burnish.template import ChatTemplate, Example


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What becomes of a rendered conversation. `cutoff_len` in tokens."""

    cutoff_len: int = 2048
    overlong: str = "truncate"
    train_on_prompt: bool = False
    mask_history: bool = False


@dataclass
class Prepared:
    """Examples and the samples they came from, in file order. `shortened` counts truncated ones."""

    examples: list[Example] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def supervised_tokens(self) -> int:
        return sum(example.supervised for example in self.examples)

    def fingerprint(self) -> str:
        """SHA-256 over all ids, labels and weights: two runs with the same one train on the same tokens."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps([example.input_ids, example.labels, example.weights]).encode())
        return digest.hexdigest()


def prepare_sample(sample: Sample, template: ChatTemplate, options: LabelOptions) -> Fitted:
    """Render, label and fit one sample. Raises TemplateError or DataError naming the dataset and row."""
    where = f"{sample.dataset}, row {sample.row}"
    if not isinstance(sample.record, Conversation):
        raise DataError(
            f"supervised fine-tuning needs conversations, not {type(sample.record).__name__}",
            at=where,
            fix="choose the stage that fits this data",
        )
    try:
        pieces = template.pieces(sample.record, last_only=options.mask_history)
    except TemplateError as error:
        raise TemplateError(error.what, at=f"{where}, {error.at}", fix=error.fix) from error
    return fit(
        pieces,
        options.cutoff_len,
        overlong=options.overlong,
        train_on_prompt=options.train_on_prompt,
        mask_history=options.mask_history,
        where=where,
    )


def prepare(
    samples: Sequence[Sample], template: ChatTemplate, options: LabelOptions, *, title: str = "labelling"
) -> Prepared:
    """Turn samples into examples.

    Raises:
        DataError: nothing is left to train on, with the reasons counted.
        TemplateError: the template cannot show a conversation as inference would see it.
    """
    done = Prepared()
    with log.progress(title, len(samples) if len(samples) > 5000 else 0) as bar:
        for sample in samples:
            fitted = prepare_sample(sample, template, options)
            bar.advance()
            if fitted.example is None:
                done.dropped[fitted.reason or "unknown"] += 1
                continue
            done.shortened += bool(fitted.cut)
            done.examples.append(fitted.example)
            done.samples.append(sample)
    if samples and not done.examples:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in done.dropped.most_common())
        raise DataError(
            f"no sample is left to train on: {reasons}",
            at="dataset",
            fix="raise cutoff_len, or look at the rows with `burnish data inspect`",
        )
    return done
