"""`burnish runs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from burnish.log import console
from burnish.runs.listing import compare_runs, list_runs, render_runs, show_run


def run_list(root: str) -> None:
    """Print the runs below a folder."""
    found = list_runs(Path(root))
    print(render_runs(found) if found else f"no runs below {root}")


def run_show(run_dir: str) -> None:
    """Print one run."""
    print(show_run(Path(run_dir)))


def run_compare(run_dirs: Sequence[str]) -> None:
    """Print several runs side by side."""
    console().print(compare_runs([Path(run) for run in run_dirs]), markup=False, soft_wrap=True)
