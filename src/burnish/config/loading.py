"""From a settings file and the command line to checked `Settings`, or to one error with all problems."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from burnish.config.catalogue import OLDER_NAMES, Entry, catalogue, find
from burnish.config.explain import unknown_key, unsupported_key, wrong_value
from burnish.config.fields import ANY, READERS, TEXT_LIKE, RoomSettings
from burnish.config.overrides import COMMAND_LINE, read_overrides
from burnish.config.reading import Given, printable, read_settings_file
from burnish.config.remarks import REMARKS
from burnish.config.rules import ADJUSTMENTS, RULES, Draft
from burnish.config.settings import ROOMS, Settings
from burnish.errors import BurnishError, SettingsError

IN_PYTHON = "settings"
"""The origin of values that were given as a mapping."""

Source = str | os.PathLike[str] | Mapping[str, Any]


def load_settings(source: Source, overrides: Sequence[str] = (), *, require: Collection[str] = ()) -> Settings:
    """Read, resolve and check the settings of a run.

    Args:
        source: a YAML or JSON file with flat `key: value` lines, or a mapping with the same keys.
        overrides: values that win over the source: `key=value`, `--key value`, `--key=value`, `--flag`.
        require: names that must have a value, such as `("model_name_or_path", "dataset", "output_dir")`.
    Returns:
        Frozen settings; paths stay relative to the working directory, null means the default.
    Raises:
        SettingsError: carries every problem of file, command line and rules at once in `.problems`.
    """
    problems: list[BurnishError] = []
    notes: list[str] = []
    if isinstance(source, Mapping):
        path, shown = None, IN_PYTHON
        first = _from_mapping(source, problems)
    else:
        path, shown = Path(source), printable(str(source))
        first = read_settings_file(path, shown, problems)
    unread = bool(problems) and not first
    given = _present_names(first, problems) | _present_names(read_overrides(overrides, problems, notes), problems)
    values = _sort_out(given, problems, notes)
    rooms, bad = _build_rooms(values, given, problems)
    set_by_user = {key: given[key] for key in values if key not in bad}
    rooms = _apply_rules(rooms, set_by_user, bad, problems, notes)
    if not unread:
        problems += _missing(require, given, rooms, bad, shown)
    if problems:
        raise SettingsError(sorted(problems, key=_line))
    used = {key: item for key, item in given.items() if item.value is not None}
    return Settings(
        **rooms,
        origins={key: item.origin for key, item in used.items()},
        source_path=path,
        given=frozenset(used),
        notes=tuple(notes),
    )


def _line(problem: BurnishError) -> int:
    """The line of the file that a problem stands on; whole-file problems first, the command line last."""
    at = problem.at or ""
    if at.startswith(COMMAND_LINE):
        return sys.maxsize
    found = re.search(r":(\d+)(?:: |$)", at)
    return int(found[1]) if found else 0


def _from_mapping(source: Mapping[Any, Any], problems: list[BurnishError]) -> list[Given]:
    found = []
    for key, value in source.items():
        if isinstance(key, str):
            found.append(Given(key, value, None, IN_PYTHON, key))
        else:
            what = f"a setting's name must be text, not {type(key).__name__}"
            problems.append(BurnishError(what, at=IN_PYTHON, fix="use strings as keys"))
    return found


def _present_names(found: Sequence[Given], problems: list[BurnishError]) -> dict[str, Given]:
    """One place's values under their present names; an older name beside the present one is a problem."""
    table: dict[str, Given] = {}
    for given in found:
        key = OLDER_NAMES.get(given.key, given.key)
        if key in table:
            what = f"'{table[key].written}' and '{given.written}' are two names of one setting"
            problems.append(BurnishError(what, at=given.at, fix=f"keep '{key}'"))
        table[key] = given
    return table


def _sort_out(given: Mapping[str, Given], problems: list[BurnishError], notes: list[str]) -> dict[str, Any]:
    """The values of supported settings; everything else becomes a problem or a note."""
    values: dict[str, Any] = {}
    for key, item in given.items():
        entry = find(key)
        if entry is None:
            problems.append(unknown_key(item))
        elif item.value is None:
            continue
        elif entry.status == "supported":
            values[key] = _as_written(entry, item)
        elif entry.status == "accepted":
            _accept(entry, item, problems, notes)
        elif not entry.is_neutral(item.value):
            problems.append(unsupported_key(entry, item))
    return values


def _as_written(entry: Entry, item: Given) -> Any:
    """Numbers in a file stay as they were written where a setting holds text: `run_name: 007`."""
    number = isinstance(item.value, int | float) and not isinstance(item.value, bool)
    if number and item.raw is not None and entry.wanted.name in TEXT_LIKE:
        return item.raw
    return item.value


def _accept(entry: Entry, item: Given, problems: list[BurnishError], notes: list[str]) -> None:
    value = _as_written(entry, item)
    if entry.wanted is not ANY:
        try:
            value = READERS[entry.wanted.name](value)
        except PydanticCustomError as wrong:
            problems.append(wrong_value(entry, item, wrong.type, value))
            return
    if not entry.is_neutral(value):
        notes.append(f"{entry.key} changes nothing here: {entry.text}")


def _build_rooms(
    values: Mapping[str, Any], given: Mapping[str, Given], problems: list[BurnishError]
) -> tuple[dict[str, Any], set[str]]:
    """The rooms, and the names whose values they refused; those hold their defaults."""
    rooms: dict[str, Any] = {}
    bad: set[str] = set()
    for room, model in ROOMS.items():
        mine = {key: value for key, value in values.items() if key in model.model_fields}
        try:
            rooms[room] = model.model_validate(mine)
        except ValidationError as wrong:
            for error in wrong.errors(include_url=False):
                key = str(error["loc"][0])
                if key not in bad and key in given:  # a default that follows from a bad value is no mistake
                    bad.add(key)
                    problems.append(wrong_value(catalogue()[key], given[key], error["type"], error["input"]))
            rooms[room] = model.model_validate({key: value for key, value in mine.items() if key not in bad})
    return rooms, bad


def _apply_rules(
    rooms: dict[str, Any],
    given: Mapping[str, Given],
    bad: set[str],
    problems: list[BurnishError],
    notes: list[str],
) -> dict[str, Any]:
    """Run rules, adjustments and remarks; return the rooms with the adjusted values."""
    for rule in RULES:
        for finding in rule(_draft(rooms, given)):
            if bad.isdisjoint(finding.keys):
                at = next((given[key].at for key in finding.keys if key in given), None)
                problems.append(BurnishError(finding.what, at=at, fix=finding.fix))
    for adjustment in ADJUSTMENTS:
        for change in adjustment(_draft(rooms, given)):
            room = catalogue()[change.key].room
            rooms = {**rooms, room: rooms[room].model_copy(update={change.key: change.value})}
            if change.note:
                notes.append(change.note)
    final = _draft(rooms, given)
    notes += [note for remark in REMARKS for note in remark(final)]
    return rooms


def _draft(rooms: Mapping[str, RoomSettings], given: Mapping[str, Given]) -> Draft:
    return Draft({key: value for room in rooms.values() for key, value in room}, given)


def _missing(
    require: Collection[str], given: Mapping[str, Given], rooms: Mapping[str, Any], bad: set[str], shown: str
) -> list[BurnishError]:
    values = _draft(rooms, given).values
    predicts = values["do_predict"] and not values["do_train"] and not values["do_eval"]
    needless = {"dataset"} if predicts and values["eval_dataset"] else set()  # only training needs training data
    missing = [key for key in require if key not in bad | needless and values[key] in (None, "", ())]
    return [
        BurnishError(f"'{key}' is not set", at=shown, fix=f"add a line `{key}: …`. {_meaning(key)}") for key in missing
    ]


def _meaning(key: str) -> str:
    field = catalogue()[key].field
    return (field.description or "") if field else ""
