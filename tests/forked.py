"""Run the command line in a process of its own that is forked from one which has imported torch already.

Importing torch, transformers and peft takes ten seconds on a slow machine, a tiny run one. The process calls
`burnish.cli.main.main` with real arguments, its own environment, folder and output; only the imports are older than it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess

PRELOADED = [
    "burnish.api",
    "burnish.cli.chat",
    "burnish.cli.main",
    "burnish.cli.train",
    "burnish.train.run",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.pyplot",
    "peft",
    "pyarrow",
    "tests.ready",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
]
STEADY = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What the imported libraries read of the environment once and for all."""


def start(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    *,
    out: Path | str,
    err: Path | None = None,
    typed: Path | None = None,
    cwd: Path | None = None,
    terminal: bool = False,
    first: Callable[[], None] | None = None,
    module: str = "burnish.cli.main",
) -> BaseProcess:
    """Start `burnish` with arguments in a session of its own.

    Args:
        environment: the whole of it.
        out, err: files for what it prints; without `err` both go to `out`.
        typed: a file for its standard input, which is empty else.
        cwd: its working directory.
        terminal: `out` is a terminal, which becomes the one it is controlled by, and its standard input.
        first: called in the new process before anything else; it must be picklable.
        module: whose `main` is called instead.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    os.environ.update(STEADY)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    streams = (str(typed or os.devnull), str(out), str(err or ""))
    process = context.Process(
        target=_main, args=(arguments, environment, streams, str(cwd or ""), terminal, first, module)
    )
    process.start()
    return process


def _main(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    streams: tuple[str, str, str],
    cwd: str,
    terminal: bool,
    first: Callable[[], None] | None,
    module: str,
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.environ.clear()
    os.environ.update(environment)
    typed, out, err = streams
    if terminal:
        tty = os.open(out, os.O_RDWR)
        ioctl(tty, termios.TIOCSCTTY, 0)
        numbers = (tty, tty, tty)
    else:
        sink = _appended(out)
        numbers = (os.open(typed, os.O_RDONLY), sink, _appended(err) if err else sink)
    for place, number in enumerate(numbers):
        os.dup2(number, place)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["burnish", *arguments]
    if cwd:
        os.chdir(cwd)
    if first is not None:
        first()
    importlib.import_module(module).main()


def two_ranks(arguments: tuple[str, ...], environment: dict[str, str], module: str) -> CompletedProcess[str]:
    """Run a module's `main` on two ranks, as torchrun would; returns 0 or the first failure, and what they said."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as place:
        free.bind(("127.0.0.1", 0))
        shared = {**environment, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        shared["MASTER_PORT"] = str(free.getsockname()[1])
        free.close()
        files = [(Path(place) / f"out-{rank}", Path(place) / f"err-{rank}") for rank in range(2)]
        processes = [
            start(arguments, {**shared, "RANK": rank, "LOCAL_RANK": rank}, out=out, err=err, module=module)
            for rank, (out, err) in zip("01", files, strict=True)
        ]
        until = time.monotonic() + 600
        while any(one.is_alive() for one in processes) and not any(one.exitcode for one in processes):
            assert time.monotonic() < until, "two ranks took too long"
            time.sleep(0.05)
        for one in processes:  # the other waits for the one that failed
            one.kill()
            one.join()
        said = ["".join(file.read_text(encoding="utf-8") for file in kind) for kind in zip(*files, strict=True)]
        return CompletedProcess(arguments, next((one.exitcode for one in processes if one.exitcode), 0), *said)


def _appended(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
