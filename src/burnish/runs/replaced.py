"""An earlier run that `overwrite_output_dir: true` replaces: put aside first, and deleted when the new one begins.

Data that is not found or a model that does not load costs nobody the run that was there. The names say how far it came,
so that a process that is killed loses nothing either:

    .replaced.part  being moved, there or back: what is in it belongs to the folder
    .replaced       whole: the new run has not begun
    .replaced.gone  the new run has begun: what is left is being deleted
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from burnish.errors import RunFolderError

_MOVING, _WHOLE, _GONE = ".replaced.part", ".replaced", ".replaced.gone"


def put_aside(folder: Path, files: Sequence[Path]) -> None:
    """Move an earlier run's files and checkpoints, which lie in `folder`, to where nobody looks for them.

    Raises:
        RunFolderError: something could not be moved; nothing was.
    """
    try:
        for path in files:
            target = folder / _MOVING / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        (folder / _MOVING).rename(folder / _WHOLE)
    except OSError as error:
        _bring_back(folder)
        raise RunFolderError(
            f"the earlier run could not be put aside: {error.strerror or error}",
            at=str(error.filename or folder),
            fix="delete it by hand, or name another `output_dir`",
        ) from error


def drop(folder: Path) -> None:
    """The new run begins: delete the earlier one, where one waits."""
    if (folder / _WHOLE).is_dir():
        (folder / _WHOLE).rename(folder / _GONE)
    shutil.rmtree(folder / _GONE, ignore_errors=True)


def settle(folder: Path, clear: Callable[[], object]) -> bool:
    """Bring back an earlier run whose successor never began, and finish what was left half done.

    Args:
        clear: deletes what the run that never began wrote into the folder.
    Returns:
        Whether an earlier run is back.
    Raises:
        RunFolderError: something could not be moved; it stays in `.replaced.part`.
    """
    shutil.rmtree(folder / _GONE, ignore_errors=True)
    if (folder / _WHOLE).is_dir():
        clear()
        (folder / _WHOLE).rename(folder / _MOVING)
    return _bring_back(folder)


def _bring_back(folder: Path) -> bool:
    if not (folder / _MOVING).is_dir():
        return False
    try:
        _merge(folder / _MOVING, folder)
    except OSError as error:
        raise RunFolderError(
            f"the earlier run could not be moved back: {error.strerror or error}",
            at=str(folder / _MOVING),
            fix="move what is in that folder into the folder around it by hand",
        ) from error
    return True


def _merge(source: Path, target: Path) -> None:
    for path in source.iterdir():
        here = target / path.name
        if path.is_dir() and not path.is_symlink() and here.is_dir() and not here.is_symlink():
            _merge(path, here)
        else:
            path.rename(here)
    source.rmdir()
