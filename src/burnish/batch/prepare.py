"""Samples to examples in memory: for looking at data, and for sets that are small."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from burnish import log
from burnish.batch.chunks import (
    CHUNK,
    Labelled,
    LabelOptions,
    MakeChunk,
    conversation_chunk,
    label_sample,
    prepare_sample,
)
from burnish.data.records import Sample
from burnish.errors import DataError
from burnish.template import ChatTemplate, Example

__all__ = [
    "LabelOptions",
    "Labelled",
    "Prepared",
    "check_bad",
    "label_sample",
    "nothing_left",
    "prepare",
    "prepare_sample",
]

_LISTED = 20
_BAD_SHARE = 0.05


@dataclass
class Prepared:
    """Examples and the samples they came from, in file order.

    A sample that needed several rows stands once for each. `shortened` counts truncated rows, `split` the rows that
    were added by splitting.
    """

    examples: list[Example] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    shortened: int = 0
    split: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def supervised_tokens(self) -> int:
        return sum(example.supervised for example in self.examples)

    def fingerprint(self) -> str:
        """SHA-256 over all ids, labels and weights: two sets with the same one train on the same tokens."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps([example.input_ids, example.labels, example.weights]).encode())
        return digest.hexdigest()


def prepare(
    samples: Sequence[Sample],
    template: ChatTemplate,
    options: LabelOptions,
    make: MakeChunk = conversation_chunk,
    *,
    title: str = "labelling",
) -> Prepared:
    """Turn samples into examples.

    Args:
        make: what becomes of the samples, such as `chunks.conversation_chunk` or `judged.preference_chunk`.
    Raises:
        DataError: nothing is left to train on, or more than 5% of the rows cannot be rendered.
        TemplateError: the template has no place for what a sample holds, or cannot show an answer as inference would.
    """
    done = Prepared()
    bad: list[str] = []
    with log.progress(title, len(samples) if len(samples) > 5000 else 0) as bar:
        for part in _parts(samples):
            chunk = make(part, template, options)
            for example, owner in chunk.examples():
                done.examples.append(example)
                done.samples.append(part[owner])
            done.dropped += chunk.dropped
            done.shortened += chunk.shortened
            done.split += chunk.split
            bad += chunk.bad
            bar.advance(len(part))
    check_bad(bad, len(samples))
    if samples and not done.examples:
        raise nothing_left(done.dropped)
    return done


def _parts(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    for start in range(0, len(samples), CHUNK):
        yield samples[start : start + CHUNK]


def check_bad(bad: Sequence[str], samples: int) -> None:
    """Name the samples that the template could not render; raise DataError where they are more than 5%."""
    for line in bad[:_LISTED]:
        log.note(f"dropped {line}")
    if len(bad) > 1 and len(bad) > _BAD_SHARE * samples:
        raise DataError(
            f"the chat template cannot render {len(bad)} of {samples} samples",
            at=bad[0],
            fix="choose another template, or mend these rows",
        )


def nothing_left(dropped: Counter[str]) -> DataError:
    """The error for a set of which nothing can be trained."""
    reasons = ", ".join(f"{count} × {reason}" for reason, count in dropped.most_common())
    return DataError(
        f"no sample is left to train on: {reasons}",
        at="dataset",
        fix="raise cutoff_len, or look at the rows with `burnish data inspect`",
    )
