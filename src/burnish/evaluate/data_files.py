"""Local files as the data of a task: which file is which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import DataError

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "dev": "validation"}


@dataclass(frozen=True)
class LocalData:
    """Files of one kind by split: train, validation, test; `reader` is datasets' name for the kind."""

    reader: str
    files: dict[str, str]

    def overrides(self, cache: Path, *, takes_examples: bool) -> dict[str, Any]:
        """What a task's YAML says instead of its own data. Its questions are those of test, else of validation.

        Args:
            cache: where the converted files are kept.
            takes_examples: whether the task draws the examples before a question from a split.
        """
        tested = "test" if "test" in self.files else "validation" if "validation" in self.files else "train"
        changes: dict[str, Any] = {
            "dataset_path": self.reader,
            "dataset_name": None,
            "dataset_kwargs": {"data_files": self.files, "cache_dir": str(cache)},
            "training_split": "train" if "train" in self.files else None,
            "validation_split": "validation" if tested == "validation" else None,
            "test_split": None if tested == "validation" else tested,
        }
        if takes_examples:
            changes["fewshot_split"] = "train" if "train" in self.files else tested
        return changes


def find_data(path: str) -> LocalData:
    """Local data for a task: a file with questions, or a folder with train, validation or test files.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return LocalData(_reader([place]), {"test": str(place.resolve())})
    if not place.is_dir():
        raise DataError("there is no such file or folder", at=f"--data {path}", fix="name the task's file or folder")
    found = {
        _SPLITS[file.stem.lower()]: file
        for file in sorted(place.iterdir())
        if file.stem.lower() in _SPLITS and file.suffix.lower() in _READERS
    }
    if not found:
        raise DataError(
            "this folder has no file of a task",
            at=f"--data {path}",
            fix="name the files test.jsonl and train.jsonl (also .json, .csv, .parquet), or give one file",
        )
    return LocalData(_reader(list(found.values())), {split: str(file.resolve()) for split, file in found.items()})


def _reader(files: Sequence[Path]) -> str:
    kinds = {_READERS.get(file.suffix.lower()) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise DataError(
            "the files of a task must be of one kind",
            at=", ".join(map(str, files)),
            fix=f"use one of {', '.join(_READERS)}",
        )
    return str(kinds.pop())
