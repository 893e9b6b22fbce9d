"""A run from outside: its folder, its status and what is said when it ends early."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from burnish import log
from burnish.config import Settings
from burnish.errors import EXIT_DEFECT, EXIT_INTERRUPTED, BurnishError, Interrupted
from burnish.runs.folder import RunFolder, read_summary
from burnish.runs.lock import hold
from burnish.train.failures import explained
from burnish.train.interrupt import stop_on_signals
from burnish.train.job import Job


def run_training(settings: Settings, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Train as the settings say and return what run.json holds.

    Args:
        callbacks: `burnish.train.callbacks.Callback` objects, or functions that get every row of metrics.jsonl.
    Raises:
        BurnishError: something the user can mend.
        Interrupted: a signal asked the run to stop; a checkpoint was saved.
    """
    output = Path(settings.training.output_dir or f"runs/{_stem(settings)}")
    resume = settings.training.resume_from_checkpoint
    finished = _finished(output, settings) if resume is True else None
    if finished is not None:
        return finished
    if settings.distributed.ray_num_workers and "RANK" not in os.environ:
        if callbacks:
            raise BurnishError(
                "callbacks that are objects cannot go to Ray's processes",
                at="callbacks",
                fix="name them in the settings: callbacks: module:name",
            )
        from burnish.train.on_ray import train_on_ray

        return train_on_ray(settings)
    job = Job(settings, output, callbacks)
    processes = job.engine.processes
    folder = None
    with ExitStack() as stack:
        try:
            if job.is_main:
                opened = _open_folder(settings, output)
                stack.enter_context(hold(opened.path))
                folder = opened  # from here on it is this process that writes there
                stack.callback(opened.settle)
                stack.enter_context(log.log_to_file(folder.log_path))
            stop = stack.enter_context(stop_on_signals(quiet=lambda: not job.is_main or processes.failed()))
            if folder:
                started = job.started.isoformat(timespec="seconds")
                folder.write_summary({"status": "running", "started": started, "settings": settings.flat()})
            with explained(settings, lambda: job.loop):
                return job.run(stop)
        except Interrupted as stopped:
            if folder:
                folder.update(status="interrupted")
                if stopped.checkpoint:
                    log.say(f"Interrupted. Go on with: resume_from_checkpoint=true   ({stopped.checkpoint})")
            raise
        except BaseException as error:
            other = processes.elsewhere(error)
            if folder:
                _record_failure(folder, other or error)
            if other is not None:
                raise other from error
            if processes.here.rank:
                error.add_note(f"on rank {processes.here.rank} of {processes.here.world}")
            raise


def _open_folder(settings: Settings, output: Path) -> RunFolder:
    return RunFolder.open_for_training(
        output,
        overwrite=settings.training.overwrite_output_dir,
        resume=settings.training.resume_from_checkpoint or False,
        inputs=_inputs(settings),
    )


def _record_failure(folder: RunFolder, error: BaseException) -> None:
    code = getattr(error, "exit_code", EXIT_DEFECT)
    if isinstance(error, KeyboardInterrupt) or code == EXIT_INTERRUPTED:
        folder.update(status="interrupted")
        return
    log.logger.error("failed", exc_info=error if not isinstance(error, BurnishError) else None)
    with suppress(BurnishError):  # on a full disk the first error is the one to show
        folder.update(status="failed", error=f"{type(error).__name__}: {error}", exit_code=code)


def _finished(output: Path, settings: Settings) -> dict[str, Any] | None:
    """The record of a run that needs no resuming: it is complete and was asked for the same length."""
    if not (output / "run.json").is_file():
        return None
    record = read_summary(output)
    same = all(
        record.get("settings", {}).get(key) == settings.flat().get(key) for key in ("num_train_epochs", "max_steps")
    )
    if record.get("status") == "completed" and same:
        log.say(f"This run is complete: {output}. Nothing to resume.")
        return record
    return None


def _inputs(settings: Settings) -> list[str]:
    """Local places this run reads from, which its output may not replace."""
    return [str(settings.model.model_name_or_path), *(settings.model.adapter_name_or_path or ())]


def _stem(settings: Settings) -> str:
    return settings.source_path.stem if settings.source_path else settings.tuning.stage
