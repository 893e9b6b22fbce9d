"""Rubrics of the user's own, from YAML or JSON files.

brevity: Is the answer as short as the question allows?
tone:
  en: {title: our tone, text: "Is it friendly and plain?", scale: [rude, cold, plain, friendly, warm and clear]}
  zh: {title: 语气, text: 语气是否友好、平实？}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError
from burnish.evaluate.judging.prompts import BANDS, LANGUAGES, PLAIN_SCALES, RUBRICS, Rubric
from burnish.registry import did_you_mean

_ENDINGS = (".yaml", ".yml", ".json")
_FIELDS = ("title", "text", "scale")
_EXAMPLE = "a rubric is a text, or has text, and where you like title and scale; or en and zh with these"

Rubrics = dict[str, dict[str, Rubric]]
"""Name → language → rubric."""


def read_rubrics(paths: Sequence[str]) -> Rubrics:
    """The rubrics of files, and of folders with such files.

    A rubric without languages is asked with its own words in each of them.

    Raises:
        BurnishError: a file cannot be read or holds no rubrics, a rubric is malformed, or a name stands twice.
    """
    found: Rubrics = {}
    where: dict[str, Path] = {}
    for file in [file for path in paths for file in _files(path)]:
        for name, value in _content(file).items():
            at = f"{file}: {name}"
            if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
                raise BurnishError(
                    f"'{name}' cannot be the name of a rubric", at=str(file), fix="letters, digits, - and _"
                )
            if name in RUBRICS or name in where:
                other = f"in {where[name]}" if name in where else "as one that comes with Burnish"
                raise BurnishError(f"there is a rubric '{name}' already, {other}", at=at, fix="give it another name")
            found[name], where[name] = _rubric(name, value, at), file
    return found


def _files(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if not place.is_dir():
        return [place]
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in _ENDINGS)
    if not files:
        raise BurnishError("there is no rubric in this folder", at=path, fix=f"files that end in {', '.join(_ENDINGS)}")
    return files


def _content(file: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8-sig")
        held = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BurnishError(
            f"the rubrics cannot be read: {why}", at=str(file), fix="name a .yaml or .json file"
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", None)
        kind = "JSON" if file.suffix.lower() == ".json" else "YAML"
        at = f"{file}: line {line}" if line else str(file)
        raise BurnishError(f"this is no {kind}: {getattr(error, 'problem', None) or error}", at=at) from error
    if not isinstance(held, Mapping) or not held:
        raise BurnishError("there is no rubric in this file", at=str(file), fix="it holds names, each with its rubric")
    return held


def _rubric(name: str, value: Any, at: str) -> dict[str, Rubric]:
    """One rubric in the languages that it has."""
    if isinstance(value, Mapping) and set(value) & set(LANGUAGES):
        for key in value:
            if key not in LANGUAGES:
                fix = f"beside {' and '.join(LANGUAGES)} nothing else can stand; put {key} into each of them"
                raise BurnishError(f"'{key}' stands beside languages", at=at, fix=fix)
        return {language: _in_words(name, one, language, f"{at}: {language}") for language, one in value.items()}
    return {language: _in_words(name, value, language, at) for language in LANGUAGES}


def _in_words(name: str, value: Any, language: str, at: str) -> Rubric:
    value = {"text": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise BurnishError("this is no rubric", at=at, fix=_EXAMPLE)
    for key in value:
        if key not in _FIELDS:
            fix = f"{did_you_mean(str(key), (*_FIELDS, *LANGUAGES))} {_EXAMPLE}"
            raise BurnishError(f"a rubric has no '{key}'", at=at, fix=fix)
    text, title = value.get("text"), value.get("title", name.replace("_", " "))
    for field, words in (("text", text), ("title", title)):
        if not isinstance(words, str) or not words.strip():
            raise BurnishError(f"'{field}' must be words that say what the judge looks at", at=at, fix=_EXAMPLE)
    scale = _scale(value["scale"], at) if "scale" in value else PLAIN_SCALES[language]
    return Rubric(str(title).strip(), str(text).strip(), scale)


def _scale(value: Any, at: str) -> tuple[str, str, str, str, str]:
    """What the grades stand for: five lines from the worst to the best, or the bands 1-2 to 9-10 with a line each."""
    lines: Any = [value.get(band) for band in BANDS] if isinstance(value, Mapping) else value
    five = isinstance(lines, list) and len(lines) == len(BANDS) == len(value)
    if not five or not all(isinstance(line, str) and line.strip() for line in lines):
        raise BurnishError(
            "'scale' must say in five lines what the grades 1-2, 3-4, 5-6, 7-8 and 9-10 stand for",
            at=at,
            fix="a list of five texts from the worst to the best, or leave it out",
        )
    first, second, third, fourth, fifth = (str(line).strip() for line in lines)
    return first, second, third, fourth, fifth
