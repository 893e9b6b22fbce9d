"""What a past run was fed, made again from its run.json: its data, and the rows of any of its steps.

The order of the samples is a pure function of data, settings and step (`batch.plan`), so nothing needs to be logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from burnish.batch.store import Origin
from burnish.batch.windows import Windows
from burnish.config import Settings
from burnish.errors import DataError
from burnish.runs.doctor.evidence import Order, StepContent
from burnish.train.data import RunData, build_data, build_template
from burnish.train.origin import model_source
from burnish.train.plans import batch_plan
from burnish.train.stages import STAGES


def data_of_run(settings: Settings, summary: Mapping[str, Any]) -> RunData:
    """The data of a run, from the cache where they are still there.

    Args:
        settings: those of the run.
        summary: its run.json.
    Raises:
        DataError: the data is streamed, or gives other tokens than it did then.
        BurnishError: model or data are not there any more.
    """
    if settings.data.streaming:
        raise DataError("streamed data is not kept, so its rows cannot be told", at="streaming")
    template = build_template(settings, model_source(settings), datetime.fromisoformat(str(summary["started"])))
    data = build_data(settings, template, STAGES.get(settings.tuning.stage))
    then = (summary.get("data") or {}).get("fingerprint")
    if then != data.fingerprint:
        raise DataError(
            "data, tokenizer or template have changed since the run: they give other tokens now",
            at=", ".join(settings.data.dataset),
            fix="put them back as they were",
        )
    return data


def rows_of_steps(
    settings: Settings, summary: Mapping[str, Any], data: RunData, steps: Iterable[int]
) -> dict[int, list[Origin]]:
    """Dataset, file and row of all samples that went into optimizer steps, over all processes, each named once.

    Args:
        steps: counted from 1, as in metrics.jsonl.
    Raises:
        DataError: the run made its samples itself, from answers of the model.
    """
    fed = list(_samples_of_steps(settings, summary, data, steps))
    assert data.train is not None
    origins = data.train.origins if isinstance(data.train, Windows) else lambda number: [data.train.origin(number)]
    return {step: list(dict.fromkeys(each for number in numbers for each in origins(number))) for step, numbers in fed}


def order_of_run(settings: Settings, summary: Mapping[str, Any], data: RunData, steps: Iterable[int]) -> Order:
    """What was in optimizer steps, over all processes: shares of the datasets in the supervised tokens, lengths.

    Args, Raises: as `rows_of_steps`.
    """
    fed = list(_samples_of_steps(settings, summary, data, steps))
    assert data.train is not None
    supervised, lengths, datasets = data.train.supervised, data.train.lengths, data.train.datasets
    names, found = data.train.names, {}
    for step, numbers in fed:
        tokens = np.bincount(datasets[numbers], weights=supervised[numbers], minlength=len(names))
        found[step] = StepContent(tuple((tokens / max(tokens.sum(), 1)).tolist()), float(lengths[numbers].mean()))
    return Order(tuple(names), found)


def _samples_of_steps(
    settings: Settings, summary: Mapping[str, Any], data: RunData, steps: Iterable[int]
) -> Iterator[tuple[int, list[int]]]:
    """Steps, counted from 1, and the numbers of the samples in each, over all processes."""
    stage = STAGES.get(settings.tuning.stage)
    if stage.rollouts or data.train is None:
        raise DataError("the rows of a step of this stage are not known afterwards", at=f"stage: {stage.name}")
    processes = int((summary.get("environment") or {}).get("processes") or 1)
    training = settings.training
    plan = batch_plan(
        *(settings, stage, processes, data.train),
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
    )
    for step in steps:
        yield step, [n for rank in range(processes) for part in plan.step(step - 1, rank) for n in part]
