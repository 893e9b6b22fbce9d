"""What Burnish says: one logger, lines for people on the terminal, and a progress bar for long work.

`say` is for what a user wants to read, `note` for what they should know (a fallback, a drop), `fail` for errors.
All of them also reach the run's `log.txt` once `log_to_file` was called.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
_RECENT = 50  # steps by which the time left is guessed
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


def aside(message: str) -> None:
    """Say on stderr what concerns the machine and not the work: what a script reads of stdout stays as it is."""
    logger.warning(message)
    if not _quiet:
        print(f"note: {message}", file=sys.stderr)


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


class _Pace:
    """How far a piece of work is and how long the rest will take, by the last steps of it."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.done = title, total, done
        self.started = time.monotonic()
        self.figures: dict[str, Any] = {}
        self._marks: deque[tuple[float, int]] = deque([(self.started, done)], maxlen=_RECENT + 1)

    def advance(self, count: int, figures: dict[str, Any]) -> None:
        self.done += count
        self.figures = figures
        self._marks.append((time.monotonic(), self.done))

    def left(self) -> str:
        """The time left in words; `?` before the first step."""
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        return f"{clock((last - first) / (now - before) * (self.total - now))} left" if now > before else "? left"

    def text(self, width: int, bar: bool) -> str:
        """One line of at most `width` columns; where room is short, bar, elapsed time and last figures go first."""
        from rich.cells import cell_len

        count, figures = f"{self.done}/{self.total}", [f"{key} {value}" for key, value in self.figures.items()]
        spent, left = clock(time.monotonic() - self.started), self.left()
        for cells in (24, 12) if bar else ():
            head = f"{self.title} {_drawn(self.done / self.total, cells)} {count}"
            line = "  ".join([head, *figures, f"{spent}, {left}"])
            if cell_len(line) <= width:
                return line
        line = "  ".join([f"{self.title} {count}", *figures, f"{spent}, {left}"])
        while cell_len(line) > width:
            line = "  ".join([f"{self.title} {count}", *figures, left])
            if not figures:
                break
            figures.pop()
        return line


def _drawn(share: float, cells: int) -> str:
    """A bar of so many columns, in halves of a column."""
    halves = min(2 * cells, int(share * 2 * cells + 1e-9))
    return ("━" * (halves // 2) + "╸" * (halves % 2)).ljust(cells, "┄")


class _LineBar:
    """Progress for pipes and log files: a line now and then instead of a moving bar.

    The lines come every `every_s` seconds at first and more rarely in a long run, up to one in a minute.
    """

    def __init__(self, title: str, total: int, done: int, every_s: float, show: Callable[[str], None]) -> None:
        self.pace, self.every_s, self.show = _Pace(title, total, done), every_s, show
        self.last = self.pace.started

    def advance(self, count: int = 1, **figures: Any) -> None:
        self.pace.advance(count, figures)
        now = time.monotonic()
        wanted = max(self.every_s, min(60.0, (now - self.pace.started) / 50))
        if now - self.last >= wanted or self.pace.done >= self.pace.total:
            self.last = now
            self.show(self.pace.text(120, bar=False))


class _LiveBar:
    """Progress on a terminal: one line that changes in place, and now and then a line in the log file."""

    def __init__(self, title: str, total: int, done: int, every_s: float) -> None:
        self.log = _LineBar(title, total, done, every_s, logger.info)

    def __rich_console__(self, console: Console, options: Any) -> Iterator[Any]:
        from rich.text import Text

        text = Text(self.log.pace.text(options.max_width, bar=True), no_wrap=True, overflow="crop")
        text.highlight_regex("━+╸?", "cyan")
        text.highlight_regex("┄+", "bright_black")
        yield text

    def advance(self, count: int = 1, **figures: Any) -> None:
        self.log.advance(count, **figures)


@contextmanager
def progress(title: str, total: int, *, done: int = 0, every_s: float = 10.0) -> Iterator[Bar]:
    """A progress bar with the time left; `advance(n, loss=…)` shows figures beside it.

    On a terminal the bar moves in place; elsewhere a line is printed at most every `every_s` seconds. The log file
    gets the lines in both cases.
    """
    if _quiet or total <= 0:
        yield _SilentBar()
        return
    if not console().is_terminal or console().is_dumb_terminal:
        yield _LineBar(title, total, done, every_s, _show_line)
        return
    from rich.live import Live

    bar = _LiveBar(title, total, done, every_s)
    with Live(bar, console=console(), refresh_per_second=5, redirect_stdout=False, redirect_stderr=True):
        yield bar


def _show_line(text: str) -> None:
    logger.info(text)
    console().print(text, markup=False, soft_wrap=True)


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
