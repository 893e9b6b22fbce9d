"""Where Burnish keeps what it downloads and converts: `BURNISH_CACHE`, else a folder in the user's cache."""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The cache folder; not created here. `BURNISH_CACHE` overrides the platform's usual place."""
    named = os.environ.get("BURNISH_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "burnish"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "burnish"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "burnish"


def counts_folder() -> Path:
    """Where small facts about files are kept that took a pass over them, such as how many lines they have."""
    return cache_folder() / "counts"


def recall(key: str) -> Any:
    """What was remembered under a key, None where nothing was or it cannot be read."""
    try:
        return json.loads((counts_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(key: str, value: Any) -> None:
    """Keep a small fact, whole or not at all; where the cache cannot be written, it has to be found anew each time.

    Args:
        key: the name of a file: letters, digits and hyphens.
        value: anything that JSON holds, but not None.
    """
    folder = counts_folder()
    aside = folder / f".{key}.tmp-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")
        os.replace(aside, folder / f"{key}.json")
    except OSError:
        with suppress(OSError):
            aside.unlink()
