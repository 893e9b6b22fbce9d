"""Functions and classes of the user's own, named in a settings file: `module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError
from burnish.registry import did_you_mean

_OURS = str(Path(__file__).parent)


def load_object(spec: str, key: str) -> Any:
    """What a setting names.

    Args:
        spec: `module:name`, or `file.py:name` with a path relative to the current folder.
        key: the setting, for messages.
    Raises:
        BurnishError: there is no such module, file or name, or it fails while it is imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise BurnishError(
            f"'{spec}' does not name a function", at=key, fix="write module:name or path/to/file.py:name"
        )
    module = _from_file(Path(place).expanduser(), key) if place.endswith(".py") else _from_module(place, key)
    found = getattr(module, name, None)
    if found is None or not callable(found):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise BurnishError(f"there is no function '{name}' in {place}", at=key, fix=did_you_mean(name, known))
    return found


def _from_file(path: Path, key: str) -> Any:
    if not path.is_file():
        raise BurnishError(f"there is no file {path}", at=key, fix="paths are relative to the current folder")
    path = path.resolve()
    name = f"burnish_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look a class's module up by its name
    with own_code(key, str(path)):
        spec.loader.exec_module(module)
    return module


def _from_module(name: str, key: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does
    try:
        with own_code(key, name):
            return importlib.import_module(name)
    finally:
        sys.path.remove(here)


@contextmanager
def own_code(key: str, name: str) -> Iterator[None]:
    """While the block runs the user's code, turn what it raises into an error that shows its own lines."""
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except Exception as error:
        lines = traceback.format_exception(error)
        own = [line for line in lines if f'"{_OURS}' not in line][-6:]
        raise BurnishError(
            f"{name} failed: {type(error).__name__}: {error}\n{''.join(own).rstrip()}",
            at=key,
            fix="mend that function; everything saved so far is intact",
        ) from error


def raised(error: BaseException) -> str:
    """What an error of the user's code says and where, in one line: `raised ValueError: no (mine.py, line 7)`."""
    text = " ".join(str(error).split())
    shown = f"raised {type(error).__name__}" + (f": {text[:300]}" if text else "")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    theirs = [frame for frame in frames if frame.filename == frames[0].filename]  # not the library that they call
    return f"{shown} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else shown
