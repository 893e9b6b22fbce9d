"""Which samples each step sees, and the batches that they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from burnish import log
from burnish.batch.collate import Batch, Layout
from burnish.batch.plan import BatchPlan, Plan, SingleRows, packed_units
from burnish.batch.windows import Windows
from burnish.config import Settings
from burnish.template import Example
from burnish.train.data import TrainSet, data_seed
from burnish.train.stages import Stage
from burnish.train.stream import StreamPlan


def batch_plan(
    settings: Settings,
    stage: Stage,
    ranks: int,
    prepared: TrainSet,
    batch_rows: int,
    accumulation: int,
    *,
    shuffle: bool = True,
    pack: bool = True,
) -> BatchPlan:
    """The order of a prepared set's samples over a run; says how well packed rows are filled.

    Args:
        ranks: processes that share the work.
        batch_rows, accumulation, shuffle: as in `BatchPlan`.
        pack: whether packing, where it is asked for, is for this set.
    """
    data, tuning = settings.data, settings.tuning
    unit, lengths = stage.unit, prepared.lengths
    rows: Sequence[Sequence[int]] = SingleRows(len(lengths) // unit, unit)
    if isinstance(prepared, Windows):
        if pack:
            filled = int(lengths.sum()) / (len(rows) * data.cutoff_len)
            log.say(
                f"{len(rows)} windows of {data.cutoff_len} tokens over all documents ({filled:.0%} full); one may "
                "hold the end of a document and the next, and neat_packing: true keeps documents apart"
            )
    elif pack and data.packing:
        rows = packed_units(lengths.tolist(), data.cutoff_len, unit)
        width = unit * data.cutoff_len
        filled = int(lengths.sum()) / (len(rows) * width)
        log.say(f"packed {len(lengths) // unit} samples into {len(rows)} rows of {width} ({filled:.1%} full)")
    grouped = settings.training.group_by_length and isinstance(rows, SingleRows)
    return BatchPlan(
        rows,
        batch_rows,
        accumulation,
        ranks=ranks,
        seed=data_seed(settings),
        shuffle=shuffle and not tuning.disable_shuffling,
        drop_last=shuffle and settings.training.dataloader_drop_last,
        lengths=lengths.reshape(-1, unit).sum(1).tolist() if grouped else None,
    )


def batches(
    stage: Stage,
    example: Callable[[int], Example],
    layout: Layout,
    datasets: Callable[[Sequence[int]], tuple[int, ...]] | None = None,
    known: np.ndarray | None = None,
) -> Callable[[Sequence[int]], Batch]:
    """Sample numbers → Batch.

    Args:
        datasets: tells which dataset each sample is from, where there are several.
        known: what the reference says of each sample, where that was computed beforehand.
    """

    def make(numbers: Sequence[int]) -> Batch:
        batch = stage.collate([example(n) for n in numbers], numbers, layout)
        if datasets is not None:
            batch = replace(batch, datasets=datasets(numbers))
        return batch if known is None else replace(batch, reference=torch.from_numpy(known[list(numbers)]))

    return make


def datasets_of(
    settings: Settings, train: TrainSet | None, plan: Plan
) -> tuple[list[str], Callable[[Sequence[int]], tuple[int, ...]] | None]:
    """Short names of the datasets of a run, and what tells the dataset of samples by its number; None for only one.

    Of a path the name is its last part, where that tells them apart.
    """
    names = list(settings.data.dataset) if train is None else train.names
    if len(names) < 2:
        return [], None
    short = [Path(name).stem if "/" in name or "\\" in name else name for name in names]
    titles = short if len(set(short)) == len(short) else list(names)
    if train is not None:
        numbers_of = train.datasets
        return titles, lambda numbers: tuple(numbers_of[list(numbers)].tolist())
    assert isinstance(plan, StreamPlan)
    return titles, lambda numbers: tuple(names.index(plan.dataset(number)) for number in numbers)
