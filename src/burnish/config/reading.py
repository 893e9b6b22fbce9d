"""Reading a settings file: YAML or JSON into keys with their values, their text and their lines."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from burnish.errors import BurnishError


@dataclass(frozen=True)
class Given:
    """One value as the user gave it.

    Attributes:
        raw: its text, for a YAML scalar or a command-line value; None otherwise.
        origin: `"run.yaml:7"`, `"command line"` or `"settings"`.
        written: the key as it was written.
    """

    key: str
    value: Any
    raw: str | None
    origin: str
    written: str

    @property
    def at(self) -> str:
        """Where it stands, for a message: `run.yaml:7: lora_rank`."""
        return f"{self.origin}: {printable(self.written)}"


def printable(text: str) -> str:
    """Text that is safe in one line of a message."""
    return text if text.isprintable() else ascii(text)[1:-1]


class _Loader(yaml.SafeLoader):
    """YAML whose plain words mean what people expect: `1e-4` is a number, `2024-01-01` and `1:30` text."""


_RESOLVERS = {
    "tag:yaml.org,2002:bool": (
        r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$",
        "yYnNtTfFoO",
    ),
    "tag:yaml.org,2002:int": (r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def parse_value(text: str) -> Any:
    """One command-line value read as YAML; text that is not YAML stays text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text


def read_settings_file(path: Path, shown: str, problems: list[BurnishError]) -> list[Given]:
    """Read a settings file; what is wrong with it is added to `problems`.

    Args:
        path: the file; `.json` is read as JSON, everything else as YAML.
        shown: its name in messages.
        problems: receives one error for each mistake.
    """
    text = _read_text(path, shown, problems)
    if text is None:
        return []
    if not text.strip():
        problems.append(BurnishError("the settings file is empty", at=shown, fix=_EXAMPLE))
        return []
    reader = _read_json if path.suffix.lower() == ".json" else _read_yaml
    try:
        found = reader(text, shown, problems)
    except RecursionError:
        problems.append(BurnishError("the settings file is nested too deeply", at=shown, fix=_FLAT))
        return []
    return _without_duplicates(found, shown, problems)


_EXAMPLE = "write settings as `key: value`, one a line, such as `model_name_or_path: my-model`"
_FLAT = "settings are flat: one `key: value` a line"


def _read_text(path: Path, shown: str, problems: list[BurnishError]) -> str | None:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        fix = "save the file as UTF-8 text"
        problems.append(BurnishError(f"the settings file is not UTF-8 text (byte {wrong.start})", at=shown, fix=fix))
    except IsADirectoryError:
        problems.append(BurnishError("this is a folder, not a settings file", at=shown, fix=_in_folder(path, "")))
    except (FileNotFoundError, NotADirectoryError):
        fix = _in_folder(path.parent, path.name)
        problems.append(BurnishError("the settings file is not there", at=shown, fix=fix))
    except PermissionError:
        problems.append(BurnishError("the settings file may not be read", at=shown, fix="mend its permissions"))
    except (OSError, ValueError) as wrong:
        reason = getattr(wrong, "strerror", None) or str(wrong)
        problems.append(
            BurnishError(f"the settings file cannot be read: {reason}", at=printable(shown), fix="check the path")
        )
    return None


def _in_folder(folder: Path, name: str) -> str:
    """What to type instead of a missing file: the nearest settings files in its folder."""
    try:
        names = sorted(item.name for item in folder.iterdir() if item.suffix.lower() in {".yaml", ".yml", ".json"})
    except (OSError, ValueError):
        return f"the folder '{printable(str(folder))}' is not there either; check the path"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) if name else []
    if close:
        return "did you mean " + " or ".join(f"'{folder / item}'" for item in close) + "?"
    if names:
        return f"settings files in '{folder}': " + ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"the folder '{folder}' holds no settings files; check the path"


def _without_duplicates(found: list[tuple[Given, int]], shown: str, problems: list[BurnishError]) -> list[Given]:
    seen: dict[str, tuple[Given, int]] = {}
    for given, line in found:
        if given.key in seen:
            first = seen[given.key][1]
            what = f"'{printable(given.key)}' is set twice, on lines {first} and {line}"
            problems.append(BurnishError(what, at=given.at, fix=f"keep one of them in {shown}"))
        seen[given.key] = (given, line)
    return [given for given, _ in seen.values()]


def _read_yaml(text: str, shown: str, problems: list[BurnishError]) -> list[tuple[Given, int]]:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            problems.append(BurnishError("the settings file is empty", at=shown, fix=_EXAMPLE))
            return []
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "plain text"
            fix = _missing_space(text.splitlines()) or _EXAMPLE
            problems.append(BurnishError(f"the settings file holds {kind}, not settings", at=shown, fix=fix))
            return []
        return list(_yaml_items(loader, root, shown, problems))
    except yaml.YAMLError as wrong:
        problems.append(_syntax_problem(wrong, text, shown))
        return []
    finally:
        if loader is not None:
            loader.dispose()


def _yaml_items(
    loader: _Loader, root: yaml.MappingNode, shown: str, problems: list[BurnishError]
) -> Iterator[tuple[Given, int]]:
    for key_node, node in root.value:
        line = key_node.start_mark.line + 1
        origin = f"{shown}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(BurnishError("a setting's name must be text", at=origin, fix=_FLAT))
            continue
        try:
            value = loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as wrong:
            reason = getattr(wrong, "problem", None) or str(wrong)
            what = f"the value of '{printable(key_node.value)}' cannot be read: {printable(reason)}"
            problems.append(BurnishError(what, at=origin, fix="write a plain value, or put it in quotes"))
            continue
        raw = node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None
        yield Given(key_node.value, value, raw, origin, key_node.value), line


_UNCLOSED = ("end of stream", "stream end", "expected ',' or ']'", "expected ',' or '}'")
_BEGUN_EARLIER = ("could not find expected", *_UNCLOSED)


def _syntax_problem(wrong: yaml.YAMLError, text: str, shown: str) -> BurnishError:
    reason = getattr(wrong, "problem", None) or getattr(wrong, "reason", None) or "it is not YAML"
    mark = getattr(wrong, "problem_mark", None)
    if any(sign in reason for sign in _BEGUN_EARLIER):
        mark = getattr(wrong, "context_mark", None) or mark
    at = shown if mark is None else f"{shown}:{mark.line + 1}"
    what = f"the settings file is not valid YAML: {printable(reason)}"
    return BurnishError(what, at=at, fix=_syntax_fix(reason, text.splitlines(), mark.line if mark else 0))


def _syntax_fix(reason: str, lines: list[str], place: int) -> str:
    """What to do about a YAML syntax error near the line with index `place`."""
    near = lines[max(place - 1, 0) : place + 2]
    if "\\t" in reason or any("\t" in line[: len(line) - len(line.lstrip())] for line in near):
        return "the line holds a tab; YAML wants spaces"
    if "another document" in reason:
        return "keep one document: remove what stands after the line `---`"
    if any(sign in reason for sign in _UNCLOSED):
        return "close the quote or the bracket"
    if missing := _missing_space(near):
        return missing
    if lines[place : place + 1] and lines[place].startswith(" "):
        return "start every setting at the left margin"
    return "write settings as `key: value`, one a line; put values with special characters in quotes"


def _missing_space(lines: list[str]) -> str | None:
    for line in lines:
        found = re.match(r"\s*(\w+)\s*(:(?=\S)|=)\s*(\S.*)$", line)
        if found:
            return f"write `{found[1]}: {printable(found[3])}`, with a colon and a space"
    return None


def _read_json(text: str, shown: str, problems: list[BurnishError]) -> list[tuple[Given, int]]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as wrong:
        what = f"the settings file is not valid JSON: {wrong.msg}"
        fix = "mend this line or the one above: a comma, a quote or a bracket"
        problems.append(BurnishError(what, at=f"{shown}:{wrong.lineno}", fix=fix))
        return []
    except ValueError as wrong:
        fix = "write a shorter number"
        problems.append(
            BurnishError(f"the settings file holds a value that cannot be read: {wrong}", at=shown, fix=fix)
        )
        return []
    if not isinstance(whole, dict):
        kind = "a list" if isinstance(whole, list) else "a single value"
        fix = 'write one object: {"model_name_or_path": "my-model"}'
        problems.append(BurnishError(f"the settings file holds {kind}, not settings", at=shown, fix=fix))
        return []
    return list(_json_items(text, shown))


def _json_items(text: str, shown: str) -> Iterator[tuple[Given, int]]:
    """Walk the outermost object of valid JSON, key by key, so that every key has its line."""
    decoder = json.JSONDecoder()
    space = re.compile(r"[\s,:]*")

    def skip(position: int) -> int:
        found = space.match(text, position)
        return found.end() if found else position

    position = skip(text.index("{") + 1)
    while text[position] != "}":
        line = text.count("\n", 0, position) + 1
        key, position = decoder.raw_decode(text, position)
        value, position = decoder.raw_decode(text, skip(position))
        position = skip(position)
        yield Given(key, value, None, f"{shown}:{line}", key), line
