"""Who looks on while a run goes on, beside the training itself: the system monitor and the experiment trackers."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from burnish.cache import cache_folder
from burnish.config import Settings
from burnish.config.catalogue import is_secret
from burnish.errors import Interrupted
from burnish.runs.folder import RunFolder
from burnish.runs.monitor import SystemMonitor
from burnish.train.trackers import Place, Trackers


class Watch:
    """The rows of one run on their way: the machine's figures are added, then file and trackers get them.

    A context: it is made before the run starts (which checks that the trackers are installed) and closes them all
    however the run ends. Only the first rank starts anything.
    """

    def __init__(self, settings: Settings, folder: RunFolder, is_main: bool) -> None:
        training = settings.training
        self.folder, self.is_main = folder, is_main
        self.monitor = SystemMonitor(folder.path)
        rows = folder.metrics.read() if training.resume_from_checkpoint and is_main else []
        self.trackers = Trackers(
            training.report_to if is_main else (),
            Place(
                folder.path,
                Path(training.logging_dir) if training.logging_dir else None,
                training.run_name or folder.path.name,
                cache_folder(),
            ),
            {key: value for key, value in settings.flat().items() if not is_secret(key)},
            resumes=bool(training.resume_from_checkpoint),
            last_step=max((int(row.get("step", -1)) for row in rows), default=-1),
        )

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.monitor.stop()
        self.trackers.finish(failed=error is not None and not isinstance(error, Interrupted | KeyboardInterrupt))

    def start(self) -> None:
        """Start the trackers that may refuse. Raises BurnishError as `Trackers.start` does."""
        self.trackers.start()

    def go_on_after(self, step: int) -> None:
        """Start the rest, once it is known after which step the run goes on."""
        if self.is_main:
            self.monitor.start()
        self.trackers.go_on_after(step)

    def row(self, row: dict[str, Any]) -> None:
        """Take a row of metrics: the machine's figures are put into it, then it is written and sent."""
        row.update(self.monitor.take())
        self.folder.metrics.append(row)
        self.trackers.log(row)
