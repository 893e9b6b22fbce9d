"""The processes of one run: who they are, who goes first, and who tells the user when one of them fails.

A launcher (torchrun, accelerate, deepspeed, Ray, or Burnish itself) starts the processes and names them by environment
variables; nothing here starts any.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from burnish.errors import BurnishError, OtherRankFailed

_POLL_S = 0.1
_GRACE_S = 3.0  # how long a process that failed first waits for the first rank to find the same mistake
_LOST = (RuntimeError, ConnectionError, OSError)  # what torch's store raises when its server is gone


@dataclass(frozen=True)
class Place:
    """This process among all: `rank` of `world`, and `local_rank` of `local_world` on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place() -> Place:
    """What the launcher's environment variables say; one process alone where there are none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return Place(rank, world, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world)))


class Processes:
    """What the processes of a run tell each other besides tensors.

    Args:
        store: a key-value store that all of them reach; None for one process alone.
    """

    def __init__(self, here: Place, store: Any = None) -> None:
        self.here, self.store = here, store

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that talks and writes."""
        return self.here.rank == 0

    @contextmanager
    def first_of_machine_first(self, what: str) -> Iterator[bool]:
        """Run a block on the first process of each machine, then on its others; yields whether this one is first.

        Leaves when all processes of all machines are through. There is no time limit: preparing data may take long, and
        a process that fails meanwhile ends the wait.
        """
        if self.store is None:
            yield True
            return
        leads = self.here.local_rank == 0
        key = f"{what}/{self.here.rank - self.here.local_rank}"
        if not leads:
            self._wait(lambda: self.store.check([key]))
        yield leads
        self.store.set(key, "1")
        self.store.add(f"{what}/all", 1)
        self._wait(lambda: self.store.add(f"{what}/all", 0) == self.here.world)

    def _wait(self, done: Callable[[], bool]) -> None:
        while not done():
            if self.store.check(["failure/1"]):
                raise self._first_failure()
            time.sleep(_POLL_S)

    # -- failures -----------------------------------------------------------------------------------------

    def failed(self) -> bool:
        """Whether any process has failed."""
        try:
            return self.store is not None and bool(self.store.check(["failure/1"]))
        except _LOST:
            return True

    def elsewhere(self, error: BaseException) -> OtherRankFailed | None:
        """Tell the others that this process fails; the failure that the user should see instead, if there is one.

        When one process fails, the others fail after it, with errors that only say so. The first one speaks. A
        mistake that all find alike is told by rank 0.
        """
        if self.store is None or isinstance(error, OtherRankFailed):
            return error if isinstance(error, OtherRankFailed) else None
        rank, text = self.here.rank, f"{type(error).__name__}: {error}"
        facts = json.dumps({"rank": rank, "text": text, "code": _exit_code(error)})
        try:
            if rank == 0:
                self.store.set("failure/of-0", facts)
            order = self.store.add("failures", 1)
            self.store.set(f"failure/{order}", facts)
        except _LOST:  # rank 0 held the store and is gone: it has failed before
            return None if rank == 0 else OtherRankFailed(0, "rank 0 has ended", 1)
        if order == 1:
            return self._same_on_rank_0(text) if rank else None
        first = self._first_failure()
        return None if rank == 0 and first.text == text else first

    def _same_on_rank_0(self, text: str) -> OtherRankFailed | None:
        until = time.monotonic() + _GRACE_S
        try:
            while time.monotonic() < until:
                if self.store.check(["failure/of-0"]):
                    facts = json.loads(self.store.get("failure/of-0"))
                    return OtherRankFailed(**facts) if facts["text"] == text else None
                time.sleep(_POLL_S)
        except _LOST:
            return None
        return None

    def _first_failure(self) -> OtherRankFailed:
        return OtherRankFailed(**json.loads(self.store.get("failure/1")))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, BurnishError) else 1


_base_store: Any = None
_runs = 0


def start_processes(device_type: str, timeout_s: int, *, alone_too: bool = False) -> Processes:
    """Join the process group that the launcher's environment describes; later runs of this process share it.

    Args:
        device_type: cpu (gloo) or cuda (nccl, with gloo for tensors on the CPU).
        timeout_s: how long a collective waits for the slowest process.
        alone_too: make a group even of one process; DeepSpeed needs one.
    """
    global _base_store, _runs
    here = place()
    if here.world == 1 and not alone_too:
        return Processes(here)
    if device_type == "cuda":
        torch.cuda.set_device(here.local_rank)
    if not distributed.is_initialized():
        _base_store = _meeting_point(here)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=distributed.PrefixStore("torch", _base_store),
            rank=here.rank,
            world_size=here.world,
            timeout=timedelta(seconds=timeout_s),
        )
    _runs += 1
    if here.world == 1 or _base_store is None:
        return Processes(here)
    return Processes(here, distributed.PrefixStore(f"burnish-{_runs}", _base_store))


def _meeting_point(here: Place) -> Any:
    if here.world == 1:
        return distributed.HashStore()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    try:
        store, _, _ = next(iter(distributed.rendezvous("env://", here.rank, here.world)))
    except (distributed.DistNetworkError, distributed.DistStoreError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise BurnishError(
            f"the processes cannot meet: {str(error).splitlines()[0][:200]}",
            at=f"MASTER_ADDR, MASTER_PORT: {where}",
            fix="is the port free there, and can this machine reach it? MASTER_PORT sets another one",
        ) from error
    return store


def end_processes() -> None:
    """Leave the process group, at the end of a command that succeeded."""
    global _base_store
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    _base_store = None
