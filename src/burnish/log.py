"""What Burnish says: one logger, lines for people on the terminal, and a progress bar for long work.

`say` is for what a user wants to read, `note` for what they should know (a fallback, a drop), `fail` for errors.
All of them also reach the run's `log.txt` once `log_to_file` was called.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("burnish")
logger.setLevel(logging.DEBUG)
logger.propagate = False
logger.addHandler(logging.NullHandler())  # else Python prints warnings once more, on stderr

T = TypeVar("T")
_console: Console | None = None
_quiet = False
_files: list[Path] = []


def console() -> Console:
    """The terminal, on stdout; a pipe or file gets plain text of at most 120 columns."""
    global _console
    if _console is None or _console.file is not sys.stdout:
        from rich.console import Console

        terminal = sys.stdout.isatty()
        _console = Console(file=sys.stdout, width=None if terminal else 120, soft_wrap=True, highlight=False)
    return _console


def set_quiet(quiet: bool) -> None:
    """Silence `say` and the progress bars (ranks above 0, library use); notes and errors stay in the log file."""
    global _quiet
    _quiet = quiet


def say(message: str = "", *, style: str | None = None) -> None:
    """Print a line for people and keep it in the log file. `message` is plain text, never markup."""
    logger.info(message)
    if not _quiet:
        console().print(message, style=style, markup=False, soft_wrap=True)


def note(message: str) -> None:
    """Print something the user should know: a fallback, a repair, a drop."""
    logger.warning(message)
    if not _quiet:
        console().print(f"note: {message}", style="yellow", markup=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print an error on stderr."""
    logger.error(message)
    print(message, file=sys.stderr)


def log_files() -> list[Path]:
    """The log files of this process so far."""
    return list(_files)


class _LogFile(logging.FileHandler):
    """A log file on a disk that may be full: losing a line of it must neither end a run nor hide why it ended."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            print(f"the end of {self.baseFilename} could not be written: {error}", file=sys.stderr)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Append everything that is said to a file, with times, while the block runs."""
    _files.append(path)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class Bar(Protocol):
    """A progress bar in use."""

    def advance(self, count: int = 1, **figures: Any) -> None: ...


class _SilentBar:
    def advance(self, count: int = 1, **figures: Any) -> None:
        pass


class _LineBar:
    """Progress for pipes and log files: a line now and then instead of a moving bar."""

    def __init__(self, title: str, total: int, done: int, every_s: float) -> None:
        self.title, self.total, self.done, self.every_s = title, total, done, every_s
        self.started = self.last = time.monotonic()
        self.first = done

    def advance(self, count: int = 1, **figures: Any) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every_s and self.done < self.total:
            return
        self.last = now
        extra = "  ".join(f"{key} {value}" for key, value in figures.items())
        made = self.done - self.first
        left = (now - self.started) / max(made, 1) * (self.total - self.done)
        console().print(
            f"{self.title} {self.done}/{self.total}  {extra}  {clock(left)} left",
            markup=False,
            soft_wrap=True,
        )


class _RichBar:
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def advance(self, count: int = 1, **figures: Any) -> None:
        extra = "  ".join(f"{key} {value}" for key, value in figures.items())
        self.bar.update(self.task, advance=count, extra=extra)


@contextmanager
def progress(title: str, total: int, *, done: int = 0, every_s: float = 10.0) -> Iterator[Bar]:
    """A progress bar with the time left; `advance(n, loss=…)` shows figures beside it.

    On a terminal the bar moves in place; elsewhere a line is printed at most every `every_s` seconds.
    """
    if _quiet or total <= 0:
        yield _SilentBar()
        return
    if not console().is_terminal:
        yield _LineBar(title, total, done, every_s)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[extra]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=False) as bar:
        yield _RichBar(bar, bar.add_task(title, total=total, completed=done, extra=""))


def track(title: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Yield the items while a progress bar follows."""
    with progress(title, total) as bar:
        for item in items:
            yield item
            bar.advance()


def clock(seconds: float) -> str:
    """Seconds as people read them: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
