"""What the reference says of every answer, computed once before training and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish import log
from burnish.batch.collate import Batch, Layout
from burnish.batch.store import Selection, StoredSet
from burnish.cache import cache_folder
from burnish.errors import BurnishError
from burnish.runs.files import write_atomically
from burnish.template import Example
from burnish.train.data import RunData, TrainSet
from burnish.train.reference import Reference
from burnish.train.stages import Stage

REFERENCE_VERSION = 1
"""Raise this when the same model would give other numbers."""


@dataclass(frozen=True)
class Precomputed:
    """`values`: by the fingerprint of a prepared set, the summed log-probability of each of its answers."""

    values: dict[str, np.ndarray]

    def of(self, samples: TrainSet | None) -> np.ndarray | None:
        """The values of a selection's examples, [N] float32 nats."""
        if not self.values or not isinstance(samples, Selection):
            return None
        return self.values[samples.base.about["fingerprint"]][samples.numbers]


def precomputed(
    reference: Reference, data: RunData, layout: Layout, stage: Stage, batch_rows: int, accelerator: Any
) -> Precomputed:
    """The reference's log-probabilities of all answers of a run's sets, from the cache where they are there.

    The key holds the tokens, the weights as they are in memory, and the number format, so nothing else can be found.
    """
    values: dict[str, np.ndarray] = {}
    weights = ""
    for samples in (data.train, *data.eval.values()):
        if not isinstance(samples, Selection) or samples.base.about["fingerprint"] in values:
            continue
        mark = samples.base.about["fingerprint"]
        weights = weights or reference.fingerprint()
        parts = [REFERENCE_VERSION, mark, weights, accelerator.mixed_precision, accelerator.device.type, layout.packed]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        file = cache_folder() / "reference" / f"{key}.f32"
        found = _read(file, len(samples.base))
        if found is None:
            make = _maker(samples.base, stage, layout)
            found = _compute(reference, samples.base, make, stage.unit * batch_rows, layout.packed, accelerator)
            if accelerator.is_main_process:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, found.tobytes())
        else:
            log.note("what the reference says of this data was in the cache")
        values[mark] = found
    return Precomputed(values)


def _read(file: Path, count: int) -> np.ndarray | None:
    if not file.is_file() or file.stat().st_size != 4 * count:
        return None
    return np.fromfile(file, dtype=np.float32)


def _maker(stored: StoredSet, stage: Stage, layout: Layout) -> Callable[[Sequence[int]], Batch]:
    def make(numbers: Sequence[int]) -> Batch:
        examples: list[Example] = [stored[number] for number in numbers]
        return stage.collate(examples, numbers, layout)

    return make


def _compute(
    reference: Reference,
    stored: StoredSet,
    make: Callable[[Sequence[int]], Batch],
    size: int,
    packed: bool,
    accelerator: Any,
) -> np.ndarray:
    """[examples] float32; the ranks share the batches."""
    count = len(stored)
    values = torch.zeros(count, dtype=torch.float32, device=accelerator.device)
    order = sorted(range(0, count, size), key=lambda start: -int(stored.lengths[start : start + size].max()))
    with log.progress("reference", len(order)) as bar:
        for place, start in enumerate(order):
            bar.advance(1)
            if place % accelerator.num_processes != accelerator.process_index:
                continue
            batch = make(range(start, min(start + size, count))).to(accelerator.device)
            with accelerator.autocast():
                values[start : start + size] = reference.logprobs(batch, packed=packed).total
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, reduction="sum")
    if not bool(values.isfinite().all()):
        raise BurnishError(
            "the reference model gives an answer no finite probability",
            at="precompute_ref",
            fix="check the model: its weights may be damaged, or its number format too narrow",
        )
    return values.cpu().numpy()
