"""What rules over several settings see and say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from burnish.config.catalogue import find
from burnish.config.reading import Given


class Finding(NamedTuple):
    """A problem between settings: the names it is about (the first given one is its place), what, the fix."""

    keys: tuple[str, ...]
    what: str
    fix: str


class Change(NamedTuple):
    """A value that follows from other settings, and a sentence about it (empty: not worth one)."""

    key: str
    value: Any
    note: str


@dataclass(frozen=True)
class Draft:
    """All values of a run while they are checked, and which of them the user gave."""

    values: Mapping[str, Any]
    given: Mapping[str, Given]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def chosen(self, key: str) -> bool:
        """Whether the user set it to something other than its default."""
        entry = find(key)
        if key not in self.given or entry is None or entry.field is None:
            return False
        default = entry.field.get_default(call_default_factory=True, validated_data=dict(self.values))
        return bool(self.values[key] != default)

    def chosen_of(self, keys: Iterable[str]) -> list[str]:
        """Those of the names that the user set to something other than their defaults."""
        return [key for key in keys if self.chosen(key)]
