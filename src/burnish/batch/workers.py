"""Preparing samples in worker processes, in order, with a bounded number of chunks on the way.

A worker is a fresh Python that is fed chunks over its standard input. It never imports the program that started it, so
this works from scripts and notebooks as well; and no thread of ours is forked.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from typing import IO, Any

from burnish.batch.chunks import CHUNK, Chunk, LabelOptions, MakeChunk
from burnish.data.records import Sample, packed, unpacked
from burnish.errors import BurnishError
from burnish.template import ChatTemplate

_ALONE = 4
"""Chunks that are made here before workers are worth their start."""
_TIME_LIMIT_S = 600.0


class WorkerError(BurnishError):
    """A worker process died, or took longer than any chunk can."""


def make_chunks(
    samples: Iterable[Sample], template: ChatTemplate, options: LabelOptions, make: MakeChunk, workers: int
) -> Iterator[tuple[Chunk, list[Sample]]]:
    """Chunks of examples with the samples they were made from, in the order of the samples.

    The result does not depend on `workers`. Small sets are prepared in this process.

    Args:
        make: `chunks.conversation_chunk` or `chunks.document_chunk`; must be importable by its name.
        workers: processes; 1 prepares everything here.
    Raises:
        BurnishError: what `make` raises, in whichever process.
        WorkerError: a worker died or did not answer in time.
    """
    parts = _parts(samples)
    for part in parts if workers <= 1 else islice(parts, _ALONE):
        yield make(part, template, options), part
    first = next(parts, None)
    if first is None:
        return
    with ExitStack() as stack:
        setup = pickle.dumps((template, options, make))
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(_Worker(setup)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        waiting: deque[tuple[Future[Chunk], list[Sample]]] = deque()
        try:
            for part in _chain(first, parts):
                waiting.append((pool.submit(_ask, idle, part), part))
                if len(waiting) > 2 * workers:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            for future, _ in waiting:
                future.cancel()


def _finished(future: Future[Chunk], part: list[Sample]) -> tuple[Chunk, list[Sample]]:
    return future.result(), part


def _chain(first: list[Sample], rest: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
    yield first
    yield from rest


def _parts(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while part := list(islice(rest, CHUNK)):
        yield part


def _ask(idle: queue.SimpleQueue[_Worker], part: list[Sample]) -> Chunk:
    worker = idle.get()
    try:
        return worker.ask(part)
    finally:
        idle.put(worker)


class _Worker:
    """One process that turns chunks of samples into examples."""

    def __init__(self, setup: bytes) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "burnish.batch.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which then ends its workers itself
        )
        self._setup: bytes | None = setup

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.terminate()
        self._process.wait()
        self._errors.close()

    def ask(self, part: list[Sample]) -> Chunk:
        """The chunk of some samples. Raises what the worker raised, or WorkerError where it is gone."""
        from threading import Timer

        timer = Timer(_TIME_LIMIT_S, self._process.kill)
        timer.start()
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            if self._setup is not None:
                _send(self._process.stdin, self._setup)
                self._setup = None
            _send(self._process.stdin, pickle.dumps(packed(part), pickle.HIGHEST_PROTOCOL))
            answer = _receive(self._process.stdout)
        except (OSError, EOFError):
            raise self._gone() from None
        finally:
            timer.cancel()
        result = pickle.loads(answer)
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Chunk)
        return result

    def _gone(self) -> WorkerError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return WorkerError(
            f"a process that prepares data has died with exit code {code}: {lines[-1] if lines else 'it said nothing'}",
            at="preprocessing_num_workers",
            fix="preprocessing_num_workers: 1 prepares the data in this process; exit code -9 means too little memory",
        )


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Answer chunks on standard input until it ends; what this process runs."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with the answers
    template, options, make = pickle.loads(_receive(sys.stdin.buffer))
    gc.freeze()  # what the imports left stays for good; looking through it again and again takes longer than reading
    while True:
        try:
            part = unpacked(pickle.loads(_receive(sys.stdin.buffer)))
        except EOFError:
            return
        answer: Any
        try:
            answer = make(part, template, options)
        except BurnishError as error:
            answer = error
        _send(answers, pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    serve()
