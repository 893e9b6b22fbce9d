"""Replies that were paid for, kept in the user's cache: a file each, so that nothing is paid twice after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.cache import cache_folder
from burnish.errors import BurnishError
from burnish.runs.files import to_json, write_atomically


class ReplyCache:
    """Replies of judges by a digest of everything that decides them.

    Args:
        fresh: ask anew even what is known; the new reply takes the place of the old one.
    """

    def __init__(self, folder: Path | None = None, *, fresh: bool = False) -> None:
        self.folder, self.fresh = folder or cache_folder() / "judge", fresh

    def get(self, key: str) -> dict[str, Any] | None:
        """What was replied; None where it is not known, or its file cannot be read."""
        if self.fresh:
            return None
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("text"), str) else None

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep a reply; it is on the disk when this returns.

        Raises:
            BurnishError: the cache cannot be written.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (to_json(reply) + "\n").encode("utf-8"))
        except OSError as error:
            raise BurnishError(
                f"the judge's reply cannot be kept: {error.strerror or error}",
                at=str(path.parent),
                fix="free space, or set BURNISH_CACHE to another folder",
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def reply_key(parts: Mapping[str, Any]) -> str:
    """The digest of what decides a reply."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()
