"""The run folder: opening `output_dir` for a run, and the summary of the run (`run.json`).

Nothing that Burnish did not write is ever deleted, and no run without `overwrite_output_dir: true`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.log import note
from burnish.runs import replaced
from burnish.runs.checkpoints import clean_leftovers, list_checkpoints, remove_checkpoint
from burnish.runs.files import is_disk_full, remove_asides, to_json, write_atomically
from burnish.runs.lock import in_use, is_held
from burnish.runs.metrics import MetricsLog
from burnish.runs.preflight import (
    EVENTS,
    LOG,
    LOSS_PLOT,
    METRICS,
    OWN_FILES,
    SUMMARY,
    checkpoint_is_inside,
    create_folder,
    free_bytes,
    gigabytes,
    is_own_file,
    own_weights,
    refuse_precious_places,
    refuse_to_replace_files,
    refuse_to_replace_inputs,
    require_writable,
)

__all__ = [
    "LOG",
    "LOSS_PLOT",
    "METRICS",
    "OWN_FILES",
    "SCHEMA",
    "STATUSES",
    "SUMMARY",
    "RunFolder",
    "free_bytes",
    "read_summary",
]

SCHEMA = 1
STATUSES = ("running", "completed", "interrupted", "failed")
_OVERWRITE_OR_RESUME = (
    "`overwrite_output_dir: true` starts anew and deletes that run; `resume_from_checkpoint: true` goes on "
    "with it; or name another `output_dir`"
)


class RunFolder:
    """A run's folder and the files in it. Making the object touches nothing on disk.

    Attributes:
        path: the folder, absolute.
        metrics: its `metrics.jsonl`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self.metrics = MetricsLog(self.path / METRICS)
        self._summary: dict[str, Any] | None = None

    @property
    def summary_path(self) -> Path:
        return self.path / SUMMARY

    @property
    def loss_plot_path(self) -> Path:
        return self.path / LOSS_PLOT

    @property
    def log_path(self) -> Path:
        return self.path / LOG

    @classmethod
    def open_for_training(
        cls,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        resume: bool | str = False,
        inputs: Collection[str | os.PathLike[str]] = (),
    ) -> RunFolder:
        """Check that a run may write here, create the folder, and clear or keep what an earlier run left.

        Resuming wins over overwriting: with both, nothing is deleted. A run that ended before its first
        logged step left nothing worth keeping and does not block the folder. An earlier run that is overwritten waits
        aside until `begin`; `settle` brings it back where that was never called.

        Args:
            path: `output_dir`.
            overwrite: delete an earlier run's own files here; foreign files stay.
            resume: True to go on with the run in this folder, or the path of a checkpoint to go on from.
            inputs: local files and folders that the run reads (model, adapter, data); names that do not exist
                are ignored. The run may not write over any of them.
        Raises:
            RunFolderError: the folder is not writable, is no folder, is a place that no run should fill,
                is in use by another process, holds another run, or files or inputs that this run would
                replace; or `resume` names no folder.
        """
        folder = cls(path)
        refuse_precious_places(folder.path, bool(resume))
        require_writable(folder.path)
        if is_held(folder.path):
            raise in_use(folder.path)
        refuse_to_replace_inputs(folder.path, inputs)
        folder.settle()
        goes_on = bool(resume)
        if isinstance(resume, str):
            goes_on = checkpoint_is_inside(folder.path, resume)
        if folder.holds_run():
            if not goes_on and not overwrite:
                raise RunFolderError(
                    "the output folder already holds a run", at=str(folder.path), fix=_OVERWRITE_OR_RESUME
                )
            if not goes_on:
                note("the earlier run in this folder is deleted when this one begins to train")
                replaced.put_aside(folder.path, folder._own())
        elif not folder.summary_path.exists():
            refuse_to_replace_files(folder.path)
        elif not goes_on:
            folder.delete_run()  # it ended before it had anything to keep
        create_folder(folder.path)
        clean_leftovers(folder.path)
        remove_asides(folder.path)
        return folder

    def holds_run(self) -> bool:
        """Whether a run worth keeping is here: a checkpoint, or a `run.json` that is no early failure's."""
        if list_checkpoints(self.path):
            return True
        if not self.summary_path.exists():
            return False
        try:
            status = read_summary(self.path).get("status")
        except RunFolderError:
            return True
        ended_early = status in ("failed", "interrupted") and not self.metrics.read()
        return not (ended_early and not own_weights(self.path))

    def begin(self) -> None:
        """Training begins: an earlier run that is overwritten goes now."""
        replaced.drop(self.path)

    def settle(self) -> None:
        """Bring an earlier run back whose successor never began, and say so."""
        if replaced.settle(self.path, self.delete_run):
            self._summary = None
            note(f"the earlier run is back in {self.path}, since the one that was to overwrite it did not begin")

    def _own(self) -> list[Path]:
        """What Burnish writes here: checkpoints, files and event files."""
        files = sorted([*(path for path in self.path.iterdir() if is_own_file(path)), *self.path.glob(EVENTS)])
        # The summary goes last: while it is there, the folder still holds a run.
        return [*list_checkpoints(self.path), *sorted(files, key=lambda path: path.name == SUMMARY)]

    def delete_run(self) -> list[Path]:
        """Delete what Burnish writes here (`OWN_FILES`, weight shards, `checkpoint-N`, event files), nothing else.

        Links are removed, never what they point to.

        Returns:
            What was deleted.
        Raises:
            RunFolderError: something could not be deleted.
        """
        gone = []
        try:
            for path in self._own():
                if path.is_dir():  # a checkpoint
                    remove_checkpoint(path)
                else:
                    path.unlink()
                gone.append(path)
        except OSError as error:
            raise RunFolderError(
                f"the earlier run could not be deleted: {error.strerror or error}",
                at=str(error.filename or self.path),
                fix="delete it by hand, or name another `output_dir`",
            ) from error
        self._summary = None
        return gone

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace `run.json`, atomically; `schema` is added, NaN and infinities become null.

        Raises:
            ValueError: `status` is not one of `STATUSES`.
            RunFolderError: the file cannot be written.
        """
        status = summary.get("status")
        if status is not None and status not in STATUSES:
            raise ValueError(f"unknown status '{status}'; known: {', '.join(STATUSES)}")
        content = {"schema": SCHEMA, **{key: value for key, value in summary.items() if key != "schema"}}
        text = to_json(content, indent=2) + "\n"
        try:
            write_atomically(self.summary_path, text.encode("utf-8"))
        except OSError as error:
            full = "the disk is full: " if is_disk_full(error) else ""
            raise RunFolderError(
                f"{full}{SUMMARY} could not be written: {error.strerror or error}",
                at=str(self.summary_path),
                fix="free some space" if full else "give this user the right to write there",
            ) from error
        self._summary = json.loads(text)

    def update(self, **parts: Any) -> dict[str, Any]:
        """Merge parts into `run.json`: mappings key by key at every depth, all else replaced.

        To replace a whole mapping (a resumed run's settings), use `write_summary`.

        Returns:
            The summary as it now stands in the file.
        """
        if self._summary is None:
            self._summary = read_summary(self.path) if self.summary_path.exists() else {}
        self.write_summary(_merged(self._summary, parts))
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """The content of `run.json`, read from disk. Raises RunFolderError as `read_summary` does."""
        return read_summary(self.path)

    def free_bytes(self) -> int:
        """Bytes free for this user on the disk that holds the folder; works before the folder exists."""
        return free_bytes(self.path)

    def require_space(self, needed_bytes: int, purpose: str = "this run") -> None:
        """Raise RunFolderError when the disk has fewer than `needed_bytes` free.

        Args:
            needed_bytes: what will be written at most at one time.
            purpose: what needs it, for the message, such as `3 checkpoints of 1.2 GB`.
        """
        free = self.free_bytes()
        if free < needed_bytes:
            raise RunFolderError(
                f"too little disk space: {purpose} needs {gigabytes(needed_bytes)}, {gigabytes(free)} are free",
                at=str(self.path),
                fix="free some space, lower `save_total_limit`, or put `output_dir` on another disk",
            )


def read_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a run's `run.json`.

    Args:
        path: the run folder, or the file itself.
    Raises:
        RunFolderError: there is none, it cannot be read, or it is not a Burnish summary of a known schema.
    """
    file = Path(path)
    if file.is_dir() or file.name != SUMMARY:
        file = file / SUMMARY
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(f"no {SUMMARY} here", at=str(file.parent), fix="name the `output_dir` of a run") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{SUMMARY} cannot be read: {error}", at=str(file)) from error
    if not isinstance(summary, dict) or not isinstance(summary.get("schema"), int):
        raise RunFolderError(f"{SUMMARY} was not written by Burnish", at=str(file))
    if summary["schema"] > SCHEMA:
        raise RunFolderError(
            f"{SUMMARY} has schema {summary['schema']}, newer than {SCHEMA}",
            at=str(file),
            fix="update Burnish",
        )
    return summary


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return result
