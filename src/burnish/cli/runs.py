"""`burnish runs`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish import log
from burnish.errors import BurnishError
from burnish.registry import did_you_mean
from burnish.runs.compare import compare_json, compare_markdown, compare_runs, metrics_of, read_runs
from burnish.runs.curves import AXES, curves_chart, plot_curves
from burnish.runs.files import to_json
from burnish.runs.folder import STATUSES
from burnish.runs.listing import SORTS, list_runs, render_runs, show_json, show_run, sorted_runs


def run_list(root: str, *, sort: str = "newest", status: str | None = None, as_json: bool = False) -> None:
    """Print the runs below a folder."""
    known = (*STATUSES, "died", "broken", "silent")
    for value, words, option in ((sort, tuple(SORTS), "--sort"), (status, known, "--status")):
        if value is not None and value not in words:
            raise BurnishError(f"{option} cannot be '{value}'", at="command line", fix=_choice(value, words))
    found = sorted_runs(list_runs(Path(root)), sort)
    if status:
        found = [run for run in found if (run["silent"] if status == "silent" else run["status"] == status)]
    if as_json:
        print_json(found)
    elif found:
        log.console().print(render_runs(found, width=_width()), markup=False, soft_wrap=True)
    else:
        print(f"no {f'{status} ' if status else ''}runs below {root}")


def run_show(run_dir: str, *, as_json: bool = False) -> None:
    """Print one run."""
    if as_json:
        log.set_quiet(True)  # notes about broken lines would stand in the JSON
        print_json(show_json(Path(run_dir)))
        return
    width = min(_width() or 72, 100)
    log.console().print(show_run(Path(run_dir), width=width), markup=False, soft_wrap=True)


def run_compare(
    run_dirs: Sequence[str],
    *,
    metric: str = "loss",
    by: str = "step",
    png: str | None = None,
    as_markdown: bool = False,
    as_json: bool = False,
) -> None:
    """Print several runs side by side, and draw their curves."""
    if by not in AXES:
        raise BurnishError(f"--by cannot be '{by}'", at="command line", fix=_choice(by, tuple(AXES)))
    log.set_quiet(as_json or as_markdown)
    runs = read_runs([Path(run) for run in run_dirs])
    known = metrics_of(runs)
    if metric != "loss" and metric not in known and f"eval_{metric}" not in known:
        raise BurnishError(
            f"none of these runs has logged '{metric}'", at="command line: --metric", fix=did_you_mean(metric, known)
        )
    curves = [run.curve(metric, by) for run in runs]
    drawn = _draw(curves, png, metric, by) if png else False
    if as_json:
        print_json(compare_json(runs, metric, by))
    elif as_markdown:
        print(compare_markdown(runs, png if drawn else None))
    else:
        console = log.console()
        console.print(compare_runs(runs, _width()), markup=False, soft_wrap=True)
        print()
        width = min(_width() or 100, 120)
        console.print(curves_chart(curves, metric, by, width, colours=console.color_system is not None), soft_wrap=True)
        if png:
            print(f"\n{'drawn in ' + png if drawn else f'no finite {metric}: nothing was drawn'}")


def _draw(curves: Any, png: str, metric: str, by: str) -> bool:
    from burnish.cache import cache_folder

    try:
        return plot_curves(curves, Path(png), metric, by, cache=cache_folder())
    except OSError as error:
        raise BurnishError(
            f"the picture cannot be written: {error.strerror or error}",
            at=png,
            fix="name a file in a folder that exists",
        ) from error


def _choice(value: str, words: Sequence[str]) -> str:
    hint = did_you_mean(value, words)
    return hint if hint.startswith("known") else f"{hint} known: {', '.join(words)}"


def _width() -> int | None:
    """Columns of the terminal; None for a pipe or file, whose lines may be as long as they like."""
    console = log.console()
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def print_json(value: Any) -> None:
    """A value on stdout, for scripts."""
    print(json.dumps(json.loads(to_json(value)), ensure_ascii=False, indent=2))
