"""Fail before the first step, not at the first save: can what will be trained be written, and is there room for it?"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from burnish.errors import ModelError, RunFolderError
from burnish.runs.files import is_disk_full
from burnish.runs.folder import RunFolder
from burnish.runs.preflight import gigabytes


def require_saveable(write: Callable[[Path], None], folder: Path) -> None:
    """Write everything but the bulk of the weights once, into a folder that is deleted again.

    Raises:
        RunFolderError: the disk refuses.
        ModelError: the tokenizer, the model's configuration or the adapter cannot be written.
    """
    aside = folder / f".files.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.mkdir(aside)
        write(aside)
    except Exception as error:
        if isinstance(error, OSError) or is_disk_full(error):
            raise RunFolderError(
                f"the output folder cannot take what will be trained: {error}",
                at=str(folder),
                fix="free some space, or name an `output_dir` in which this user may write",
            ) from error
        raise ModelError(
            f"what will be trained could not be saved: {type(error).__name__}: {error}",
            at=str(folder),
            fix="mend the model's or the tokenizer's files; nothing was trained yet",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def checkpoints_to_come(
    total_steps: int, done_steps: int, every: int, limit: int | None, there: int, *, best: bool = False
) -> int:
    """How many checkpoints a run will add to those that are there, at most at one time.

    A new one is complete before an old one is deleted, so that one more than `limit` lies there for a moment.

    Args:
        every: steps between two; 0 where their number is not known, which counts as two.
        limit: `save_total_limit`; None or 0 keeps all.
        best: whether the best one is kept besides.
    """
    coming = math.ceil(total_steps / every) - done_steps // every if every else 2
    if limit is not None and limit > 0:
        coming = min(coming, max(0, limit + best - there) + 1)
    return max(0, coming)


def require_room(folder: RunFolder, weights_bytes: int, state_bytes: int, checkpoints: int) -> None:
    """Raise RunFolderError where the disk has too little room for the weights and all checkpoints to come."""
    each = weights_bytes + state_bytes
    words = f"the weights and {checkpoints} checkpoint{'s' * (checkpoints > 1)} of {gigabytes(each)}"
    folder.require_space(weights_bytes + checkpoints * each, words if checkpoints else "saving the weights")
