"""Training: one loop for all stages, exact resume, atomic checkpoints."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """Importing this room puts it in the place of the function `burnish.train`, so it does what that one does."""

    def __call__(self, settings: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        from burnish.train.run import train_with

        return train_with(settings, *arguments, **options)


sys.modules[__name__].__class__ = _Room
