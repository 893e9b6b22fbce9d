"""Who speaks when processes fail, who goes first, and how signals stay quiet. The processes here are threads."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
from torch import distributed

from burnish.errors import BurnishError, OtherRankFailed
from burnish.train import processes as module
from burnish.train.processes import Place, Processes, place


@pytest.fixture
def pair(monkeypatch):
    """Two ranks of one machine over one store."""
    monkeypatch.setattr(module, "_GRACE_S", 0.5)
    store = distributed.HashStore()
    return [Processes(Place(rank, 2, rank, 2), store) for rank in (0, 1)]


def test_places_come_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert place() == Place(0, 1, 0, 1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert place() == Place(5, 8, 1, 4)


def test_the_first_failure_speaks_and_the_rest_is_quiet(pair):
    first, second = pair
    assert not first.failed()
    assert second.elsewhere(ValueError("row 7")) is None
    other = first.elsewhere(RuntimeError("connection closed by peer"))
    assert other is not None
    assert (other.rank, other.text, other.exit_code) == (1, "ValueError: row 7", 1)
    assert first.failed()


def test_a_mistake_that_all_find_is_told_by_rank_0(pair):
    first, second = pair
    said = {}
    mistake = BurnishError("no such file", at="dataset")
    thread = threading.Thread(target=lambda: said.update(second=second.elsewhere(mistake)))
    thread.start()
    time.sleep(0.1)
    said["first"] = first.elsewhere(BurnishError("no such file", at="dataset"))
    thread.join()
    assert said["first"] is None, "rank 0 speaks, although rank 1 was earlier"
    assert said["second"].exit_code == 2


def test_one_process_alone_always_speaks():
    assert Processes(Place()).elsewhere(ValueError("x")) is None


def test_the_leader_prepares_and_the_others_wait(pair):
    order = []

    def follow():
        with pair[1].first_of_machine_first("data") as first:
            order.append(("second", first))

    thread = threading.Thread(target=follow)
    thread.start()
    with pair[0].first_of_machine_first("data") as first:
        time.sleep(0.3)
        order.append(("first", first))
    thread.join(timeout=10)
    assert order == [("first", True), ("second", False)]


def test_waiting_ends_when_the_leader_fails(pair):
    pair[0].elsewhere(BurnishError("all rows were dropped"))
    with pytest.raises(OtherRankFailed) as caught, pair[1].first_of_machine_first("data"):
        raise AssertionError("never reached")
    assert caught.value.exit_code == 2
    assert pair[1].elsewhere(caught.value) is caught.value


def test_failures_travel_between_processes():
    error = pickle.loads(pickle.dumps(OtherRankFailed(3, "ValueError: x", 2)))
    assert (error.rank, error.text, error.exit_code) == (3, "ValueError: x", 2)
