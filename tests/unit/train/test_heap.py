"""Free memory is given back between micro-batches, where it is the CPU's and the C library can."""

import gc
import os

import psutil
import pytest
import torch

from burnish.train import heap
from burnish.train.heap import give_back, seldom_collected


def test_not_where_the_tensors_lie_on_a_gpu(monkeypatch):
    monkeypatch.setattr(heap, "_trim", lambda: pytest.fail("called"))
    assert not give_back(torch.device("cuda"))


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(heap, "_trim", lambda: None)
    assert not give_back(torch.device("cpu"))


def test_holes_are_given_back():
    if heap._trim() is None:
        pytest.skip("this C library has no malloc_trim")
    kept, holes = [], []
    for _ in range(20_000):  # small enough to lie on the heap, each hole between two that stay
        holes.append(bytearray(8_192))
        kept.append(bytearray(1_024))
    del holes
    before = psutil.Process().memory_info().rss
    assert give_back(torch.device("cpu"))
    assert psutil.Process().memory_info().rss < before - 40_000_000
    assert len(kept) == 20_000


def test_the_collector_is_as_before_behind_a_start():
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold() == (50_000, *before[1:])
    assert gc.get_threshold() == before


def test_a_collector_that_is_off_stays_off():
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with seldom_collected():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


def test_what_the_user_set_for_onednn_stays(monkeypatch):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    heap.keep_few_products()
    assert os.environ[name] == "128"
    monkeypatch.setenv(name, "7")
    heap.keep_few_products()
    assert os.environ[name] == "7"
