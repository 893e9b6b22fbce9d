"""Who works in a run folder: one process at a time, and whether it is still alive.

The lock lies on the folder itself and needs no file. The system takes it away with the process, however that died.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from burnish.errors import RunFolderError

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs. Where the system has no such locks, nothing is held.

    Raises:
        RunFolderError: another process holds it.
    """
    handle = _open(folder)
    try:
        if handle is not None and _lock(handle, shared=False) is False:
            raise in_use(folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def is_held(folder: Path) -> bool | None:
    """Whether a process works in the folder; None where that cannot be told."""
    handle = _open(folder)
    if handle is None:
        return None
    try:
        got = _lock(handle, shared=True)
        return None if got is None else not got
    finally:
        os.close(handle)


def in_use(folder: Path) -> RunFolderError:
    """The error of a second process in the same folder."""
    return RunFolderError(
        "another process is training in this output folder",
        at=str(folder),
        fix="wait until it is done, or end it (the run then goes on with `resume_from_checkpoint: true`)",
    )


def _open(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:  # there is no folder, or Windows, which opens none
        return None


def _lock(handle: int, *, shared: bool) -> bool | None:
    """True when it was got, False when another process has it, None where there are no locks."""
    try:
        import fcntl

        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in _HELD else None
    return True
