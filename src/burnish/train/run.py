"""A run from outside: its folder, its status and what is said when it ends early."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from burnish import log
from burnish.config import Settings
from burnish.errors import EXIT_DEFECT, BurnishError, Interrupted
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
    job = Job(settings, output, callbacks)
    if not job.is_main:
        with stop_on_signals() as stop, explained(settings, lambda: job.loop):
            return job.run(stop)
    folder = RunFolder.open_for_training(
        output,
        overwrite=settings.training.overwrite_output_dir,
        resume=resume or False,
        inputs=_inputs(settings),
    )
    with hold(folder.path), log.log_to_file(folder.log_path), stop_on_signals() as stop:
        started = job.started.isoformat(timespec="seconds")
        folder.write_summary({"status": "running", "started": started, "settings": settings.flat()})
        try:
            with explained(settings, lambda: job.loop):
                return job.run(stop)
        except Interrupted as stopped:
            folder.update(status="interrupted")
            if stopped.checkpoint:
                log.say(f"Interrupted. Go on with: resume_from_checkpoint=true   ({stopped.checkpoint})")
            raise
        except KeyboardInterrupt:
            folder.update(status="interrupted")
            raise
        except BaseException as error:
            log.logger.error("failed", exc_info=not isinstance(error, BurnishError))
            with suppress(BurnishError):  # on a full disk the first error is the one to show
                code = getattr(error, "exit_code", EXIT_DEFECT)
                folder.update(status="failed", error=f"{type(error).__name__}: {error}", exit_code=code)
            raise


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
