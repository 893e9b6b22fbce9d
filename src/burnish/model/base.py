"""What a run changes of its base model before an adapter is put on, kept beside the adapter.

An adapter's own files name the base by its place and cannot tell that its vocabulary grew or its positions were
stretched. Whoever loads the adapter has to do the same to the base first; Burnish reads it here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from burnish.errors import ModelError

BASE_FILE = "burnish_base.json"
"""Lies beside an adapter whose base was changed; absent where it was not."""


@dataclass(frozen=True)
class BaseChanges:
    """`rows`: of the embeddings, None for as many as there are. `config`: values of the model's config."""

    rows: int | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: BaseChanges) -> BaseChanges:
        return BaseChanges(other.rows or self.rows, {**self.config, **other.config})

    def __bool__(self) -> bool:
        return self.rows is not None or bool(self.config)


def write_changes(folder: Path, changes: BaseChanges) -> None:
    """Keep the changes beside an adapter; writes nothing where there are none."""
    if changes:
        (folder / BASE_FILE).write_text(json.dumps(asdict(changes), indent=1), encoding="utf-8")


def read_changes(folder: str | Path) -> BaseChanges:
    """What the adapter in a folder needs its base to be changed to. Raises ModelError for a file that is damaged."""
    path = Path(folder) / BASE_FILE
    if not path.is_file():
        return BaseChanges()
    try:
        return BaseChanges(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"this file cannot be read: {error}", at=str(path), fix="restore it from the run") from error
