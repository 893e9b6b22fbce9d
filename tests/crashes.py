"""Kill real runs of the command line at chosen moments, and compare what they leave with an uninterrupted run.

A run is a forked process (tests/forked.py); with a launcher it is a plain command.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from burnish.runs.checkpoints import checkpoint_step, list_checkpoints, verify
from burnish.runs.monitor import FIGURES
from tests import forked
from tests.runs import weights

TIMED = {"tokens_per_second", "elapsed_s", "rss_mb", "eval_runtime_s", *FIGURES}
"""What of a row of metrics a clock or the machine decides."""
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What shall happen to a run when it is about to change a file.

    `event`: for the n-th time, from 1. `matches`: or the first time that the change's line fits this pattern, such as
    `os.rename run/checkpoint-2`. `number`: the signal that it sends itself; 0 lets it run and only writes the trace.
    `largest_file`: bytes; a write beyond them kills the process in mid-write, or fails where `spared`.
    """

    event: int = 0
    matches: str = ""
    number: int = 0
    largest_file: int = 0
    spared: bool = False


class Started:
    """A run that was started; its output goes to a file."""

    def __init__(self, process: Any, said: Path) -> None:
        self._process, self._said = process, said
        self.pid: int = process.pid

    def kill(self) -> None:
        """SIGKILL it and everything below it."""
        import psutil

        try:
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for one in family:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue

    def running(self) -> bool:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return self._process.is_alive()

    def wait(self, timeout_s: float = 300.0) -> int:
        """The exit status, negative for a signal."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait(timeout_s)
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"still running after {timeout_s} s\n{self.output}"
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it printed so far, on stdout and stderr."""
        return self._said.read_text(encoding="utf-8", errors="replace")


def start(
    *arguments: str, said: Path, trace: Path | None = None, fault: Fault | None = None, launcher: str = "", **env: str
) -> Started:
    """Start `burnish` with arguments.

    Args:
        said: the file for what it prints.
        trace: gets a line for each change of a file below its folder; its last line is where a fault struck.
        launcher: a command before `-m burnish`, such as `python` or `torchrun --nproc-per-node 2`; "" forks.
    """
    env = {**os.environ, **forked.STEADY, "COLUMNS": "120", **env}
    if launcher:
        assert fault is None
        with open(said, "wb") as sink:
            child = subprocess.Popen(
                [*shlex.split(launcher), "-m", "burnish", *arguments],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                start_new_session=True,
            )
        return Started(child, said)
    said.touch()
    first = None if trace is None else partial(_watch, trace, fault or Fault())
    return Started(forked.start(arguments, env, out=said, first=first), said)


def _watch(trace: Path, fault: Fault) -> None:
    """Follow every change of a file below the trace's folder, and let the fault strike."""
    log = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    root = str(trace.parent.resolve()) + os.sep
    count, struck = 0, False
    if fault.largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file, fault.largest_file))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if fault.spared else signal.SIG_DFL)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count, struck
        if event == "open":
            path, _, flags = details
            if not flags & _WRITES:
                return
        elif event in _CHANGES:
            path = details[0]
            folder = details[-1] if event in ("os.remove", "os.rmdir") else -1
            if folder != -1:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        else:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(root):
            return
        count += 1
        line = f"{event} {place[len(root) :]}"
        os.write(log, f"{count} {line}\n".encode())
        strikes = count == fault.event or (fault.matches and not struck and re.match(fault.matches, line))
        if strikes and fault.number:
            struck = True
            os.kill(os.getpid(), fault.number)

    sys.addaudithook(hook)


class Trial:
    """One run in a folder of its own, with its own cache, that may be killed and resumed.

    Args:
        folder: a new folder.
        settings: all but output_dir and resume_from_checkpoint.
        launcher: as in `start`.  disk: where the run's own folder lies, by default in `folder`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], launcher: str = "", disk: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.launcher = folder, launcher
        self.run = (disk or folder) / "run"
        self.file = folder / "run.json"
        wanted = {**settings, "output_dir": str(self.run), "resume_from_checkpoint": True}
        self.file.write_text(json.dumps(wanted), encoding="utf-8")
        self.deaths: list[str] = []

    def start(self, fault: Fault | None = None, *more: str) -> Started:
        """Start the run, or go on with it."""
        trace = None if self.launcher else self.folder / "trace.txt"
        return start(
            "train",
            str(self.file),
            *more,
            said=self.folder / "said.txt",
            trace=trace,
            fault=fault,
            launcher=self.launcher,
            BURNISH_CACHE=str(self.folder / "cache"),
        )

    def struck(self, fault: Fault) -> bool:
        """Run until the fault strikes. False where the run was complete before."""
        code = self.start(fault).wait()
        if code == 0:
            return False
        assert code == -(fault.number or signal.SIGXFSZ), self.said()
        self.deaths.append(self.events()[-1])
        return True

    def killed_after(self, seconds: float) -> bool:
        """Run for a time, then SIGKILL. False where the run was complete before."""
        child = self.start()
        time.sleep(seconds)
        child.kill()
        code = child.wait()
        if code == 0:
            return False
        assert code == -signal.SIGKILL, self.said()
        last = self.events()[-1:] if not self.launcher else []
        self.deaths.append(f"{seconds:.2f} s, after: {''.join(last) or 'nothing was written'}")
        return True

    def killed_past(self, step: int, seconds: float) -> bool:
        """SIGKILL it some time after the checkpoint of a step is there. False where the run was complete before."""
        child = self.start()
        while child.running() and not any((checkpoint_step(path) or 0) >= step for path in list_checkpoints(self.run)):
            time.sleep(0.02)
        time.sleep(seconds)
        child.kill()
        if child.wait() == 0:
            return False
        self.deaths.append(f"{seconds:.2f} s after step {step}")
        return True

    def finish(self) -> float:
        """Run to the end; returns the seconds it took."""
        child = self.start()  # the server may have to start first, which is not the run's time
        started = time.monotonic()
        code = child.wait()
        assert code == 0, self.said()
        return time.monotonic() - started

    def said(self) -> str:
        return (self.folder / "said.txt").read_text(encoding="utf-8", errors="replace")[-6000:]

    def events(self) -> list[str]:
        """The changes of files that the last process made or was about to make."""
        trace = self.folder / "trace.txt"
        return trace.read_text(encoding="utf-8").splitlines() if trace.exists() else []

    def rows(self) -> list[dict[str, Any]]:
        return rows(self.run)


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock or the system decides."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


def assert_same(trial: Trial, whole: Trial) -> None:
    """A run that was killed ended exactly as the uninterrupted one, and left nothing lying about."""
    found, expected = weights(trial.run), weights(whole.run)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), f"{name} differs; killed at {trial.deaths}"
    assert trial.rows() == whole.rows(), f"killed at {trial.deaths}"
    steps = [row["step"] for row in trial.rows()]
    assert steps == sorted(set(steps))
    names = {path.name for path in trial.run.iterdir()}
    assert names == {path.name for path in whole.run.iterdir()}, f"killed at {trial.deaths}"
    for checkpoint in list_checkpoints(trial.run):
        assert verify(checkpoint) == []
    record, other = (json.loads((one.run / "run.json").read_text()) for one in (trial, whole))
    assert record["status"] == "completed"
    for key in ("steps", "train_loss", "eval_loss", "best", "ended"):
        assert record["train"].get(key) == other["train"].get(key), key


@contextmanager
def small_disk(place: Path, megabytes: float) -> Iterator[Path]:
    """A disk of its own at a folder, as far as this user may mount one. Raises PermissionError else."""
    place.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PermissionError(done.stderr.strip() or "cannot mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)
