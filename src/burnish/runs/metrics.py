"""`metrics.jsonl`: one line of JSON a logging step, appended, and the same after a crash as without one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.log import note
from burnish.runs.files import fsync_file, is_disk_full, to_json, write_atomically


class MetricsLog:
    """The rows of `metrics.jsonl`. Making the object touches nothing on disk.

    A last line that a crash tore is dropped before anything is appended; NaN and infinities become null.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._ends_whole = False

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and hand it to the system, so that it survives the death of this process.

        Raises:
            RunFolderError: the row cannot be written (disk full, folder gone).
        """
        line = to_json(row) + "\n"
        try:
            if not self._ends_whole:
                self._mend_end()
            self._ends_whole = False
            with open(self.path, "ab") as handle:
                handle.write(line.encode("utf-8"))
            self._ends_whole = True
        except OSError as error:
            full = is_disk_full(error)
            reason = "the disk is full" if full else error.strerror or error
            raise RunFolderError(
                f"a row of {self.path.name} could not be written: {reason}",
                at=str(self.path),
                fix="free some space, then go on with `resume_from_checkpoint: true`" if full else None,
            ) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole rows in file order; none when there is no file.

        A torn last line is dropped; a broken line elsewhere is dropped with a note that counts them.
        """
        rows, broken = self._scan()
        if broken:
            note(f"{self.path.name}: {broken} broken line(s) left out")
        return rows

    def flush(self) -> None:
        """Make the rows so far survive a power cut, as a checkpoint does. Raises RunFolderError."""
        try:
            if self.path.exists():
                fsync_file(self.path)
        except OSError as error:
            raise RunFolderError(f"{self.path.name} could not be flushed: {error}", at=str(self.path)) from error

    def truncate_after(self, step: int) -> int:
        """Drop the rows of later steps, atomically, so that a resumed run logs no step twice.

        Rows without a `step` stay. Broken lines are dropped as well.

        Args:
            step: the optimizer step of the checkpoint that is resumed from; its own rows stay. 0 drops all.
        Returns:
            How many rows were dropped.
        Raises:
            RunFolderError: the file cannot be written; it is then unchanged.
        """
        if not self.path.exists():
            return 0
        rows = self.read()
        kept = [row for row in rows if step and not (isinstance(at := row.get("step"), int | float) and at > step)]
        try:
            write_atomically(self.path, "".join(to_json(row) + "\n" for row in kept).encode("utf-8"))
        except OSError as error:
            raise RunFolderError(
                f"{self.path.name} could not be shortened: {error.strerror or error}", at=str(self.path)
            ) from error
        self._ends_whole = True
        return len(rows) - len(kept)

    def _scan(self) -> tuple[list[dict[str, Any]], int]:
        """The whole rows, and how many lines other than a torn last one are broken."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        rows: list[dict[str, Any]] = []
        broken = 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            row = _parse(line)
            if row is not None:
                rows.append(row)
            elif number < len(lines) - 1:
                broken += 1
        return rows, broken

    def _mend_end(self) -> None:
        """End the file with a whole line: complete the newline, or cut a torn line off."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as handle:
            content = handle.read()
            if not content or content.endswith(b"\n"):
                return
            last = content[content.rfind(b"\n") + 1 :]
            if _parse(last) is not None:
                handle.write(b"\n")
            else:
                handle.truncate(len(content) - len(last))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
