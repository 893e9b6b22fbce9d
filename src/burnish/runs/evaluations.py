"""`eval.json`: what an evaluation found, written and read; tables and lines of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.runs.files import to_json, write_atomically
from burnish.runs.preflight import EVAL, SUMMARY

SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """One metric of one task. `stderr`: its standard error; `n`: questions; both None where they are not known."""

    value: float
    stderr: float | None
    n: int | None
    higher_is_better: bool = True


def write_evaluation(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write eval.json, whole or not at all; what stood there before is replaced.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / EVAL, (to_json({"schema": SCHEMA, **content}, indent=2) + "\n").encode("utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"the results cannot be written: {error.strerror or error}", at=str(folder), fix="name another --output"
        ) from error
    return folder / EVAL


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's eval.json; None where there is none that can be read."""
    try:
        found = json.loads((folder / EVAL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("tasks"), dict) else None


def earlier_of(folder: Path, model: str) -> dict[str, Any] | None:
    """The content of a folder's eval.json, if it is about this model; a run folder knows no other."""
    found = read_evaluation(folder)
    return found if found and ((folder / SUMMARY).is_file() or found.get("model") == model) else None


def result_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """The table that people know: task, filter, n-shot, metric, value, ±; its head first."""
    rows = [["task", "filter", "n-shot", "metric", "value", "±", "n"]]
    for part in ("tasks", "groups"):
        for task, figures in content.get(part, {}).items():
            shots = content.get("n_shot", {}).get(task)
            for key, figure in figures.items():
                metric, _, name = key.partition(",")
                arrow = "↑" if figure.get("higher_is_better", True) else "↓"
                rows.append([
                    task, name, "" if shots is None else str(shots), f"{metric} {arrow}", f"{figure['value']:.4f}",
                    "" if figure.get("stderr") is None else f"{figure['stderr']:.4f}",
                    "" if figure.get("n") is None else str(figure["n"]),
                ])  # fmt: skip
    return rows


def result_lines(content: Mapping[str, Any]) -> list[str]:
    """Each figure in a few words, `gsm8k_local exact_match (strict-match) 0.31 ± 0.01`, and what a comparison found."""
    lines = []
    for task, name, _, metric, value, error, _ in result_rows(content)[1:]:
        named = f" ({name})" if name not in ("", "none") else ""
        lines.append(f"{task} {metric[:-2]}{named} {value}" + (f" ± {error}" if error else ""))
    compared = content.get("compared_with") or {}
    for task, keys in (compared.get("tasks") or {}).items():
        lines += [f"{task} against {compared.get('model')}: {found['verdict']}" for found in keys.values()]
    return lines + judge_lines(content.get("judge") or {})


def judge_lines(judge: Mapping[str, Any]) -> list[str]:
    """What a judge found, a line each: mean grades, the difference of two models, pairs."""
    by, lines = f"by {judge.get('model')}", []
    for rubric, sides in (judge.get("grades") or {}).items():
        if "mean" in sides["new"]:
            new = sides["new"]
            lines.append(f"{rubric} {new['mean']:.2f} of 10 ({new['low']:.2f} to {new['high']:.2f}) {by}")
        if sides.get("difference"):
            lines.append(f"{rubric} grades against {judge.get('compared_with')}: {sides['difference']['verdict']}")
    for rubric, found in (judge.get("pairs") or {}).items():
        if "verdict" in found:
            lines.append(f"{rubric} pairs against {judge.get('compared_with')}, {by}: {found['verdict']}")
    return lines
