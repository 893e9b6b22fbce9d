"""Where Burnish keeps what it downloads and converts: `BURNISH_CACHE`, else a folder in the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
