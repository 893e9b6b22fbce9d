"""Writing files so that a crash leaves either the old content or the new, never a torn mixture."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ASIDE = re.compile(r"\.(files|run\.json|metrics\.jsonl|loss\.png)\.tmp-[0-9a-f-]+")


def fsync_file(path: Path) -> None:
    """Make the content of a file survive a power cut. Raises OSError."""
    with open(path, "rb+") as handle:
        os.fsync(handle.fileno())


def settle_file(path: Path) -> None:
    """Flush a file, and let all read it who may read its folder. Raises OSError.

    safetensors makes files that their owner alone may read, whatever the umask says: others of a group, or a server
    under an account of its own, could not load the weights of a run.
    """
    mode, wanted = path.stat().st_mode, path.parent.stat().st_mode & 0o444
    if mode & wanted != wanted:
        with suppress(PermissionError):  # a file system without modes of its own
            path.chmod(stat.S_IMODE(mode) | wanted)
    fsync_file(path)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut; does nothing on Windows, which cannot flush folders."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file: write aside in the same folder, flush, rename.

    Raises:
        OSError: the file could not be written; the old content is still in place and nothing is left aside.
    """
    aside = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        with open(aside, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def place_files(folder: Path, writer: Callable[[Path], None]) -> None:
    """Write several files into a folder, each of them whole or as it was before.

    All are written aside and flushed before the first one is renamed into its place, so that a full disk or a writer
    that fails changes nothing.

    Args:
        folder: must exist.
        writer: is given an empty folder on the same disk and writes the files into it, without sub-folders.
    Raises:
        Exception: whatever the writer or the disk raises; nothing is left aside.
    """
    aside = folder / f".files.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.mkdir(aside)
        writer(aside)
        files = sorted(aside.iterdir())
        for file in files:
            settle_file(file)
        for file in files:
            os.replace(file, folder / file.name)
        fsync_folder(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_asides(folder: Path) -> list[Path]:
    """Remove what `write_atomically` and `place_files` left aside in a folder when their process was killed."""
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not _ASIDE.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def plain(value: Any) -> Any:
    """A value as strict JSON holds it: NaN and infinities become None, numpy numbers plain, the rest text.

    Sets become sorted lists, so that the same value always gives the same file.
    """
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if callable(getattr(value, "tolist", None)):  # a numpy number or array, without importing numpy
        return plain(value.tolist())
    return str(value)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON text (no NaN), non-ASCII characters kept readable."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the disk or the quota is full.

    Libraries that write with native code report it only in words, so their texts are looked at as well.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        text = str(error)
        if "No space left on device" in text or "os error 28" in text or "Disk quota exceeded" in text:
            return True
        error = error.__cause__ or error.__context__
    return False
