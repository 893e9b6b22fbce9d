"""Datasets as prepared sets: tokens and labels on disk, kept in the cache by their content."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from burnish import log
from burnish.batch.chunks import LabelOptions
from burnish.batch.prepare import check_bad, nothing_left
from burnish.batch.store import Counts, SetWriter, StoredSet, open_set
from burnish.batch.truncation import Limits
from burnish.batch.workers import make_chunks
from burnish.cache import cache_folder
from burnish.config import Settings
from burnish.data.iterate import Tally
from burnish.data.load import CONVERSION_VERSION, iter_samples, source_fingerprint
from burnish.data.records import Sample
from burnish.data.sources import default_cache_dir
from burnish.errors import DataError
from burnish.runs.environment import usable_cores
from burnish.template import ChatTemplate
from burnish.train.stages import Stage

_SAY_EVERY_S = 5.0
PREPARE_VERSION = 2
"""Raise this when the same samples give other tokens or labels: sets in the cache are then made anew."""


def label_options(settings: Settings) -> LabelOptions:
    """The settings that decide labels, as plain values."""
    data = settings.data
    limits = Limits(data.cutoff_len, data.overlong, data.max_source_length, data.max_target_length)
    return LabelOptions(limits, data.train_on_prompt, data.mask_history, data.split_turns, data.on_bad_row)


def reading(settings: Settings) -> dict[str, Any]:
    """What decides which rows are read, as arguments of the data room."""
    data, model = settings.data, settings.model
    return {
        "stage": settings.tuning.stage,
        "max_samples": data.max_samples,
        "seed": data_seed(settings),
        "cache_dir": default_cache_dir(),
        "hub_token": model.hf_hub_token,
        "ms_hub_token": model.ms_hub_token,
        "max_files": data.max_files,
    }


def data_folder(settings: Settings) -> Path:
    """The folder with dataset_info.json."""
    return Path(settings.data.dataset_dir).expanduser()


def data_seed(settings: Settings) -> int:
    """The seed of splits and of the order of samples."""
    seed = settings.training.data_seed
    return settings.training.seed if seed is None else seed


def sets_folder() -> Path:
    """Where prepared sets are kept between runs."""
    return cache_folder() / "prepared"


def prepared_set(
    settings: Settings, names: Sequence[str], template: ChatTemplate, stage: Stage, what: str = "train"
) -> StoredSet:
    """The named datasets as tokens and labels on disk, from the cache where they are there already."""
    labels = label_key(settings, template)
    kept = settings.data.tokenized_path
    if kept:
        folder = Path(kept).expanduser() / what
        found = open_set(folder)
        if found is not None and not settings.data.overwrite_cache:
            return _checked(found, labels, folder)
    rows = source_fingerprint(names, data_folder(settings), **reading(settings))
    key = hashlib.sha256(f"{rows} {labels}".encode()).hexdigest()[:32]
    folder = folder if kept else sets_folder() / key
    found = None if settings.data.overwrite_cache else open_set(folder)
    if found is not None:
        for line in found.about["notes"]:
            log.note(line)
        log.note("the prepared data was in the cache; overwrite_cache: true prepares it anew")
        return found
    tally = Tally()
    policy = settings.data.on_bad_row
    samples = iter_samples(names, data_folder(settings), on_bad_row=policy, tally=tally, **reading(settings))
    return prepare_into(settings, samples, tally, template, stage, folder, labels)


def label_key(settings: Settings, template: ChatTemplate) -> str:
    """A digest of all that decides how samples become tokens and labels; not of the number of processes."""
    options = asdict(label_options(settings))
    source = template.saved_source
    day = str(template.today.date()) if "strftime_now" in source and template.today else ""
    parts = [
        *(PREPARE_VERSION, CONVERSION_VERSION, settings.tuning.stage, options, source, day),
        *(sorted(template.stop_ids), template.encoder.guards, template.encoder.fingerprint()),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _checked(found: StoredSet, labels: str, folder: Path) -> StoredSet:
    if found.about.get("labels") != labels:
        raise DataError(
            "this prepared set was made with another tokenizer, template, length or mask option",
            at=f"tokenized_path: {folder}",
            fix="name another folder, or set overwrite_cache: true to prepare it anew",
        )
    for line in found.about["notes"]:
        log.note(line)
    log.note(f"using the prepared set in {folder}; the data itself is not read")
    return found


def prepare_into(
    settings: Settings,
    samples: Iterator[Sample],
    tally: Tally,
    template: ChatTemplate,
    stage: Stage,
    folder: Path,
    labels: str,
) -> StoredSet:
    """Prepare samples into a set in a folder; says what was dropped. Raises DataError where nothing is left."""
    counts = Counts()
    writer = SetWriter(folder, replace=settings.data.overwrite_cache, labels=labels)
    read = 0
    started = said = time.monotonic()
    try:
        for chunk, part in make_chunks(samples, template, label_options(settings), stage.chunk, workers(settings)):
            writer.add(chunk, part)
            counts.dropped += chunk.dropped
            counts.shortened += chunk.shortened
            counts.split += chunk.split
            counts.bad += chunk.bad
            read += len(part)
            now = time.monotonic()
            if now - said > _SAY_EVERY_S:  # how many there will be is not known, so there is no bar to fill
                said = now
                log.say(f"preparing the data: {read:,} rows, {read / (now - started):,.0f} rows/s")
        counts.rows_read = tally.rows
        counts.dropped.update(tally.dropped)
        counts.notes = tally.notes + [f"dropped {bad.dataset}, row {bad.row}: {bad.reason}" for bad in tally.bad]
        for line in counts.notes:
            log.note(line)
        check_bad(counts.bad, read)
        if not writer.examples:
            raise nothing_left(counts.dropped)
    except BaseException:
        writer.abandon()
        raise
    return writer.finish(counts)


def workers(settings: Settings) -> int:
    """Processes that prepare data."""
    asked = settings.data.preprocessing_num_workers
    return min(asked or 8, usable_cores())


def counts_of(stored: StoredSet) -> Counts:
    """What was counted when a set was prepared."""
    about = stored.about
    return Counts(about["rows_read"], Counter(about["dropped"]), about["shortened"], about["split"], about["notes"])
