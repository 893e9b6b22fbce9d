"""Processes that prepare data: the same result as without them, and their death is an error, not a wait for ever."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import psutil
import pytest

from burnish.batch import workers
from burnish.batch.chunks import CHUNK, Chunk, LabelOptions
from burnish.batch.truncation import Limits
from burnish.batch.workers import WorkerError, make_chunks
from burnish.data.records import Document, Sample
from tests.conftest import build_tokenizer

OPTIONS = LabelOptions(Limits(32))


def samples(chunks):
    return [Sample(Document(f"text {row}"), "set", row) for row in range(chunks * CHUNK)]


def template():
    from burnish.template import load_template

    return load_template(build_tokenizer(), None)


def in_a_worker():
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "burnish.batch.workers"


def killed(part, template, options):
    """A chunk whose process is killed, as the system does when memory runs out."""
    if in_a_worker():
        os.kill(os.getpid(), signal.SIGKILL)
    return empty()


def raising(part, template, options):
    if in_a_worker():
        raise RuntimeError("the tokenizer broke")
    return empty()


def quick(part, template, options):
    return empty()


def hanging(part, template, options):
    if in_a_worker():
        time.sleep(600)
    return empty()


def empty():
    none = np.zeros(0, np.int32)
    return Chunk(none, none, none.astype(bool), None, none)


@pytest.mark.parametrize(
    ("make", "says"),
    [(killed, "exit code -9"), (raising, "exit code 1: RuntimeError: the tokenizer broke")],
    ids=["killed", "raising"],
)
def test_a_dead_worker_is_an_error_that_shows_how_it_died(make, says):
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        list(make_chunks(samples(6), template(), OPTIONS, make, 2))
    assert says in caught.value.what
    assert "preprocessing_num_workers: 1" in caught.value.fix
    assert time.monotonic() - started < 120


def test_a_worker_that_does_not_answer_is_an_error_after_the_time_limit(monkeypatch):
    monkeypatch.setattr(workers, "_TIME_LIMIT_S", 8.0)
    with pytest.raises(WorkerError, match="has died"):
        list(make_chunks(samples(5), template(), OPTIONS, hanging, 2))


def test_no_worker_outlives_a_generator_that_is_dropped():
    before = psutil.Process().children()
    made = make_chunks(samples(6), template(), OPTIONS, quick, 2)
    for _ in range(5):
        next(made)
    assert len(psutil.Process().children()) == len(before) + 2
    made.close()
    assert psutil.Process().children() == before
