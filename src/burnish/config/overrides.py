"""Reading settings from the command line: `key=value`, `--key value`, `--key=value` and `--flag`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from burnish.config.catalogue import Entry, find
from burnish.config.fields import FLAG, RESUME, TEXT_LIKE
from burnish.config.reading import Given, parse_value, printable
from burnish.errors import BurnishError

COMMAND_LINE = "command line"

_PAIR = re.compile(r"(?:--)?([A-Za-z_][\w.\-]*)=(.*)", re.DOTALL)


def read_overrides(words: Sequence[str], problems: list[BurnishError], notes: list[str]) -> list[Given]:
    """Read the command line's settings; the last of several values for one key counts, with a note.

    Args:
        words: what stands after the settings file.
        problems: receives one error for each word that cannot be read.
        notes: receives a sentence for each value that is replaced by a later one.
    """
    found: dict[str, Given] = {}
    waiting = [str(word) for word in words]
    while waiting:
        word = waiting.pop(0)
        pair = _PAIR.fullmatch(word)
        if pair:
            given = _given(pair[1], pair[2])
        elif re.fullmatch(r"--[A-Za-z_][\w.\-]*", word):
            taken = _value_after(word[2:], waiting, problems)
            if taken is None:
                continue
            given = taken
        else:
            problems.append(_unreadable(word))
            continue
        if given.key in found:
            notes.append(f"'{given.key}' stands twice on the command line; the last value is used")
        found[given.key] = given
    return list(found.values())


def _entry(written: str) -> Entry | None:
    return find(written.replace("-", "_"))


def _given(written: str, raw: str, value: Any = None) -> Given:
    key = written.replace("-", "_")
    if value is None:
        value = parse_value(raw)
        entry = _entry(written)
        if value is not None and entry is not None and not _is_quoted(raw):
            kept: Any = {"names": list, "paths": list, "numbers": list, "rewards": (list, dict), "resume": bool}.get(
                entry.wanted.name
            )
            if entry.wanted.name in TEXT_LIKE and not (kept and isinstance(value, kept)):
                value = raw
    return Given(key, value, raw, COMMAND_LINE, written)


def _is_quoted(raw: str) -> bool:
    raw = raw.strip()
    return len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'"


def _value_after(written: str, waiting: list[str], problems: list[BurnishError]) -> Given | None:
    """The value of `--key`: the next word, or true for a flag that stands alone."""
    entry = _entry(written)
    following = waiting[0] if waiting else None
    is_flag = entry is None or entry.wanted in (FLAG, RESUME)
    if following is not None and following.startswith("--"):
        following = None
    if following is not None and is_flag:
        pair = _PAIR.fullmatch(following)
        if pair is not None and (_entry(pair[1]) is not None or (entry is not None and entry.wanted is FLAG)):
            following = None
    if following is not None:
        return _given(written, waiting.pop(0))
    if is_flag:
        return _given(written, "true", True)
    fix = f"write --{written} VALUE or {written}=VALUE"
    problems.append(BurnishError(f"'--{written}' needs a value", at=f"{COMMAND_LINE}: {written}", fix=fix))
    return None


def _unreadable(word: str) -> BurnishError:
    shown = printable(word)
    fix = "write settings as key=value or --key value"
    if _entry(word.lstrip("-")) is not None:
        fix = f"write {shown.lstrip('-')}=VALUE"
    return BurnishError(f"cannot read '{shown}' as a setting", at=f"{COMMAND_LINE}: {shown}", fix=fix)
