"""Datasets to a list of samples, with an account of what was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from burnish.data.iterate import NamedBadRow, Tally, iter_samples
from burnish.data.records import Sample
from burnish.data.registry import describe_registry, resolve
from burnish.data.sources import source_stretches
from burnish.data.spec import DatasetSpec
from burnish.data.split import split_samples
from burnish.data.stretches import files_of

__all__ = [
    "Loaded",
    "NamedBadRow",
    "Tally",
    "describe_registry",
    "fingerprint",
    "iter_samples",
    "load_samples",
    "split_samples",
]

CONVERSION_VERSION = 2
"""Raise this when the same rows give other records: it is part of the fingerprint."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read.

    Args:
        samples: the usable rows, dataset after dataset, in file order.
        rows_read: rows that were looked at, bad ones included.
        dropped: reason → number of rows.
        bad_rows: the first 20 of them.
        notes: what the user should know: guesses, repairs, columns that were left unread.
        files: every file that was read.
        fingerprint: sha256 over the content of the files and all that decides how rows become samples.
    """

    samples: list[Sample]
    rows_read: int
    dropped: dict[str, int]
    bad_rows: list[NamedBadRow]
    notes: list[str]
    files: list[Path]
    fingerprint: str


def load_samples(
    names: Sequence[str],
    dataset_dir: Path,
    *,
    stage: str = "sft",
    max_samples: int | None = None,
    on_bad_row: Literal["drop", "error"] = "drop",
    seed: int = 42,
    cache_dir: Path | None = None,
    hub_token: str | None = None,
    ms_hub_token: str | None = None,
    max_files: int | None = None,
) -> Loaded:
    """Read datasets into samples.

    Args:
        names: datasets of the registry in `dataset_dir`, or paths of files and folders, or patterns.
        dataset_dir: the folder with `dataset_info.json`.
        stage: what the samples are for; the data must hold the kind of record that it needs.
        max_samples: take at most the first n rows of each dataset; bad ones among them count.
        on_bad_row: `drop` counts bad rows, and is an error once more than 5% of a dataset (and more than
            one row) are bad; `error` stops at the first.
        seed: for `num_samples` in the registry.
        cache_dir: where fetched data is kept; by default `datasets` in Burnish's cache folder.
        hub_token: for the Hugging Face hub; by default its own tools look for one (`HF_TOKEN`).
        ms_hub_token: for ModelScope; a token is never sent to the other hub.
        max_files: read at most this many files of each dataset.
    Raises:
        DataError: anything the user can mend; says what, in which file, row and key, and how.
    """
    tally = Tally()
    samples = list(
        iter_samples(
            names,
            dataset_dir,
            stage=stage,
            max_samples=max_samples,
            on_bad_row=on_bad_row,
            seed=seed,
            cache_dir=cache_dir,
            hub_token=hub_token,
            ms_hub_token=ms_hub_token,
            max_files=max_files,
            tally=tally,
        )
    )
    return Loaded(
        samples,
        tally.rows,
        dict(tally.dropped.most_common()),
        tally.bad,
        tally.notes,
        tally.files,
        fingerprint(tally, stage, max_samples, seed),
    )


def source_fingerprint(
    names: Sequence[str],
    dataset_dir: Path,
    *,
    stage: str,
    max_samples: int | None,
    seed: int,
    cache_dir: Path | None = None,
    hub_token: str | None = None,
    ms_hub_token: str | None = None,
    max_files: int | None = None,
) -> str:
    """`Loaded.fingerprint` up to the formats that are told from the rows: what a cache of prepared data goes by.

    Nothing is converted; the content of every file is hashed. The arguments are those of `load_samples`.
    """
    tally = Tally()
    for name in names:
        spec = resolve(name, dataset_dir)
        token = ms_hub_token if spec.source_kind == "ms_hub" else hub_token
        tally.read.append((spec, files_of(source_stretches(spec, tally.notes, cache_dir, token, max_files))))
    return fingerprint(tally, stage, max_samples, seed)


def fingerprint(tally: Tally, stage: str, max_samples: int | None, seed: int) -> str:
    """sha256 over the content of all files read and all that decides how their rows become samples."""
    digest = hashlib.sha256(json.dumps([CONVERSION_VERSION, stage, max_samples]).encode())
    for spec, files in tally.read:
        _digest(digest, spec, files, seed)
    return digest.hexdigest()


def _digest(digest: Any, spec: DatasetSpec, files: Sequence[Path], seed: int) -> None:
    known = spec.identity() | {"seed": seed if spec.num_samples else None}
    digest.update(json.dumps(known, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
