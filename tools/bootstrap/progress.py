"""Run a step: its output goes to a log, a person sees one line."""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import unicodedata
from collections import deque
from pathlib import Path

HEARTBEAT_S = 30.0
TICK_S = 0.25


def activity(line: str) -> str:
    """Say in a few words what a line of pip's or uv's output means; empty if it is not worth showing."""
    text = line.strip()
    if match := re.match(r"Downloading (\S+?)(?:\.metadata)? \(([\d.]+ ?[kKMG]?i?B)\)", text):
        return f"fetching {_package(match[1])}, {match[2]}"
    if match := re.match(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)", text):
        return _package(match[1])
    if match := re.match(r"(?:Processing|Using cached) (\S+)", text):
        return _package(match[1].rsplit("/", 1)[-1])
    if match := re.match(r"Installing collected packages: (.*)", text):
        count = match[1].count(",") + 1
        return f"unpacking {count} packages" if count > 1 else f"unpacking {match[1].strip()}"
    if match := re.match(r"(Resolved|Prepared|Installed) (\d+) packages?", text):
        return f"{match[1].lower()} {match[2]} packages"
    if text.startswith(("Preparing ", "Building ", "Getting requirements", "Checking if build")):
        return "building"
    return ""


def _package(file_name: str) -> str:
    return re.split(r"-\d|[=<>;\[]|\.whl|\.tar", file_name, maxsplit=1)[0]


def clock(seconds: float) -> str:
    """Return "1:05" for 65 seconds."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02d}"


def fit(text: str, columns: int) -> str:
    """Cut a text to a width in terminal columns; East Asian wide characters take two."""
    width = 0
    for index, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > columns:
            return text[:index]
    return text


class Screen:
    """Where the progress is shown: a line that is rewritten in a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.started = time.monotonic()

    def line(self, text: str = "") -> None:
        """Print a line that stays."""
        self.clear()
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "replace").decode(), flush=True)

    def status(self, text: str) -> None:
        """Show a line that the next one replaces."""
        if self.terminal:
            columns = shutil.get_terminal_size().columns
            encoding = sys.stdout.encoding or "ascii"
            shown = fit(text, columns - 1).encode(encoding, "replace").decode(encoding)
            sys.stdout.write("\r" + shown + "\x1b[K")
            sys.stdout.flush()

    def clear(self) -> None:
        """Remove the line that is shown."""
        if self.terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class StepFailed(Exception):
    """A command of a step ended with an error.

    Attributes:
        tail: the last lines of its output.
        output: more of it, to find the cause in.
    """

    def __init__(self, tail: list[str], output: str) -> None:
        super().__init__(tail[-1] if tail else "no output")
        self.tail = tail
        self.output = output


def run(command: list[str], *, title: str, log: Path, cwd: Path, env: dict[str, str], screen: Screen) -> None:
    """Run a command, append its output to the log and show what it is doing with the time since it began.

    Raises:
        StepFailed: it ended with an error, or could not be started.
        KeyboardInterrupt: the user stopped it; the command has been ended too.
    """
    began = time.monotonic()
    lines: deque[str] = deque(maxlen=200)
    with open(log, "a", encoding="utf-8", errors="replace") as file:
        file.write(f"\n$ {subprocess.list2cmdline(command)}\n")
        file.flush()
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise StepFailed([str(error)], str(error)) from error
        assert process.stdout is not None
        feed: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, feed), daemon=True)
        reader.start()
        try:
            doing, last_said = "", began
            while True:
                try:
                    line = feed.get(timeout=TICK_S)
                except queue.Empty:
                    line = ""
                if line is None:
                    break
                if line:
                    lines.append(line.rstrip("\n"))
                    file.write(line)
                    doing = activity(line) or doing
                now = time.monotonic()
                screen.status(f"  {title}  {clock(now - began)}  {doing}")
                if not screen.terminal and now - last_said > HEARTBEAT_S:
                    last_said = now
                    screen.line(f"  {title}  {clock(now - began)}  {doing} …")
            status = process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        finally:
            screen.clear()
        file.write(f"[exit status {status}, {time.monotonic() - began:.1f} s]\n")
    if status != 0:
        raise StepFailed(list(lines)[-12:], "\n".join(lines))


def _read(stream: object, feed: queue.Queue[str | None]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        feed.put(line)
    feed.put(None)
