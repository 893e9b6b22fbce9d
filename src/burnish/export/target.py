"""The folder an export goes to: written beside it, and in its place only once all of it was checked."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.errors import RunFolderError
from burnish.runs.files import fsync_folder, is_disk_full, settle_file
from burnish.runs.preflight import free_bytes, gigabytes, refuse_precious_places

REPORT = "burnish_export.json"
"""What was exported and how it was checked. Only folders with this file are ever overwritten."""


class Target:
    """Where an export goes.

    Args:
        folder: is made; may exist if it is empty, or with `overwrite` if it holds an earlier export.
        inputs: folders and files that are read; none may lie in the target.
    Raises:
        RunFolderError: the folder holds something, is a file, or is a place that no export should fill.
    """

    def __init__(self, folder: str | os.PathLike[str], *, overwrite: bool, inputs: Collection[str]) -> None:
        self.folder = Path(os.path.abspath(os.path.expanduser(folder)))
        self.overwrite = overwrite
        refuse_precious_places(self.folder, False)
        if self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError("a file is in the way", at=str(self.folder), fix="name a folder with --to")
        for each in inputs:
            place = Path(each).expanduser()
            if place.exists() and place.resolve().is_relative_to(self.folder.resolve()):
                raise RunFolderError(
                    "the export would write over what it reads", at=str(each), fix="name another folder with --to"
                )
        self._check_content()

    def _check_content(self) -> None:
        held = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        if not held or (self.overwrite and REPORT in held):
            return
        if REPORT in held:
            fix = "add --overwrite to replace that export, or name another folder with --to"
            raise RunFolderError("the folder holds an earlier export", at=str(self.folder), fix=fix)
        shown = ", ".join(held[:4]) + (", …" if len(held) > 4 else "")
        raise RunFolderError(
            f"the folder is not empty, and holds no export of Burnish: {shown}",
            at=str(self.folder),
            fix="name another folder with --to" + (", or empty this one yourself" if self.overwrite else ""),
        )

    def require_room(self, needed_bytes: int) -> None:
        """Raise RunFolderError where the disk has less room than the files will take; an old export stays till then."""
        free = free_bytes(self.folder)
        if free < needed_bytes:
            raise RunFolderError(
                f"too little disk space: the export takes {gigabytes(needed_bytes)}, {gigabytes(free)} are free",
                at=str(self.folder),
                fix="free some space, choose a smaller --dtype or --quantize, or a folder on another disk",
            )

    @contextmanager
    def written(self) -> Iterator[Path]:
        """An empty folder beside the target, which takes the target's place when the block ends without an error.

        An error, or a disk that is full, leaves the target as it was and nothing beside it.
        """
        aside = self.folder.with_name(f".{self.folder.name}.export-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            aside.mkdir(parents=True)
            yield aside
            self._place(aside)
        except OSError as error:
            raise RunFolderError(
                f"the export could not be written: {'the disk is full' if is_disk_full(error) else error}",
                at=str(self.folder),
                fix="free some space, or name a folder in which this user may write with --to",
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _place(self, aside: Path) -> None:
        for file in (path for path in aside.rglob("*") if path.is_file()):
            settle_file(file)
        self._check_content()  # minutes have gone by
        old = None
        if self.folder.is_dir():
            old = self.folder.with_name(f"{aside.name}.old")
            self.folder.rename(old)
        try:
            aside.rename(self.folder)
        except OSError:
            if old is not None:
                old.rename(self.folder)
            raise
        fsync_folder(self.folder.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
