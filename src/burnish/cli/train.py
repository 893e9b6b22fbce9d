"""`burnish train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from burnish.config import load_settings
from burnish.errors import BurnishError

REQUIRED = ("model_name_or_path", "dataset")


def split_arguments(run: str | None, rest: Sequence[str]) -> tuple[str | None, list[str]]:
    """The settings file, if one was named, and everything else as overrides."""
    if run is not None and ("=" in run or run.startswith("-")):
        return None, [run, *rest]
    return run, list(rest)


def run_train(run: str | None, rest: Sequence[str]) -> None:
    """Read the settings and train."""
    source, overrides = split_arguments(run, rest)
    if source is None and not overrides:
        raise BurnishError(
            "nothing to train: no settings were given",
            at="command line",
            fix="burnish train RUN.yaml, or burnish train model_name_or_path=… dataset=… (see examples/)",
        )
    settings = load_settings(source if source is not None else {}, overrides, require=REQUIRED)
    from burnish.train.launch import launch, wants_launch

    use_cpu = settings.training.use_cpu
    works = settings.training.do_train or settings.training.do_eval  # predictions are made in one process
    if works and settings.distributed.ray_num_workers is None and wants_launch(os.environ, use_cpu=use_cpu):
        raise SystemExit(launch(sys.argv[1:], use_cpu=use_cpu))
    from burnish.api import run as run_settings
    from burnish.train.processes import end_processes

    run_settings(settings)
    end_processes()
