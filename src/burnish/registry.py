"""Lazy tables from a name to an object, and the nearest name for a misspelt one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from burnish.errors import BurnishError


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known names that look most like `name`, best first; empty when nothing is close."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence for an error's `fix`: the nearest name, or the known ones when nothing is close."""
    known = sorted(known)
    close = nearest(name, known)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"known: {shown}" if known else "none are known"


class LazyTable:
    """A table `name → "module:object"` whose modules are imported only when a name is asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}

    def add(self, name: str, target: str) -> None:
        """Register `"module:object"` under a name. Raises ValueError for a duplicate name."""
        if name in self._targets:
            raise ValueError(f"{self.kind} '{name}' is already registered as {self._targets[name]}")
        self._targets[name] = target

    def get(self, name: str) -> Any:
        """The object behind a name. Raises BurnishError with the nearest name when there is none."""
        if name not in self._targets:
            raise BurnishError(f"unknown {self.kind} '{name}'", fix=did_you_mean(name, self._targets))
        module, _, attribute = self._targets[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)
