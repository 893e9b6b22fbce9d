"""One thread that steps the engine; handlers give it requests and get events back in their event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from burnish.errors import BurnishError
from burnish.generate.request import Event, Request
from burnish.log import logger
from burnish.serve.errors import ApiError

_IDLE_S = 0.5  # how long an idle engine waits before it looks whether it is to stop


class Engine(Protocol):
    """What continues prompts; only the worker's thread calls it."""

    @property
    def window(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def submit(self, request: Request) -> int: ...
    def cancel(self, number: int) -> None: ...
    def step(self) -> list[Event]: ...


@dataclass(frozen=True)
class Backend:
    """An engine and what it can do.

    `slots`: answers at a time. `shapes_logits`: takes `Request.shape_logits`, which penalties, biases and JSON need.
    `logprobs`: tells how likely each token was, with up to 20 alternatives. `renew` makes a fresh engine after a
    failed step, whose rows cannot be trusted any more; None goes on with the old one. `close` is called once, when
    the server ends.
    """

    engine: Engine
    name: str
    slots: int
    shapes_logits: bool = True
    logprobs: bool = True
    renew: Callable[[], Engine] | None = None
    close: Callable[[], None] = lambda: None


class Ticket:
    """One request on its way: events come in, the handler takes them out. Lives in the event loop."""

    def __init__(self, worker: Worker, request: Request) -> None:
        self.request = request
        self.started = time.monotonic()
        self.number: int | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self._worker = worker
        self._events: list[Event] = []
        self._error: Exception | None = None
        self._ready = asyncio.Event()
        self._running = request.copies

    async def events(self) -> list[Event]:
        """What has come since the last call, at least one event. Raises what ended the request before its time."""
        await self._ready.wait()
        self._ready.clear()
        if self._error is not None:
            raise self._error
        got, self._events = self._events, []
        return got

    @property
    def finished(self) -> bool:
        """Whether nothing more will come out of it."""
        return self.closed and not self._events and self._error is None

    def close(self) -> None:
        """Free its slots; a request that has ended has none."""
        if not self.closed:
            self.closed = True
            self._worker.let_go(self)

    def deliver(self, event: Event) -> None:
        """Take an event; the last one of the last copy frees the place in the queue."""
        if event.ending == "cancelled":  # by the engine, which could not go on
            self.fail(_failed())
            return
        self._events.append(event)
        self._ready.set()
        self._running -= event.ending is not None
        if not self._running:
            self.close()

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._error = error
        if not self.accepted.done():
            self.accepted.set_exception(error)
        self._ready.set()
        self.close()


class Worker:
    """Runs an engine in a thread of its own.

    Args:
        backend: the engine.
        queue_limit: answers that may wait besides those that run.
        on_events: called in the event loop with the events of every step.
    """

    def __init__(
        self, backend: Backend, *, queue_limit: int, on_events: Callable[[list[Event]], None] = lambda _: None
    ) -> None:
        self.backend = backend
        self.limit = backend.slots + queue_limit
        self.held = 0
        self.failures = 0
        self._on_events = on_events
        self._engine = backend.engine
        self._inbox: queue.SimpleQueue[tuple[str, Ticket | None]] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}  # of the event loop
        self._live: dict[int, int] = {}  # of the engine's thread: how many copies of a request are still under way
        self._closed = self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="burnish-engine", daemon=True)

    # -- in the event loop ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def running(self) -> int:
        """Answers that the engine works on."""
        return self._engine.running

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    async def submit(self, request: Request) -> Ticket:
        """Hand a request to the engine and wait until it has taken it.

        Raises:
            ApiError: 429 where the queue is full, 503 where the server ends.
            BurnishError: the engine refuses it.
        """
        if self._closed or not self.alive:
            raise _ending()
        if self.held + request.copies > self.limit:
            raise ApiError(
                429,
                f"The queue is full: {self.held} answers are under way or waiting. Try again in a moment.",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        ticket = Ticket(self, request)
        self.held += request.copies
        self._inbox.put(("submit", ticket))
        try:
            await ticket.accepted
        except BaseException:
            ticket.close()
            raise
        return ticket

    def let_go(self, ticket: Ticket) -> None:
        """Forget a ticket; the engine is told in case it is still at it."""
        self.held -= ticket.request.copies
        if ticket.number is not None:
            self._tickets.pop(ticket.number, None)
        self._inbox.put(("cancel", ticket))

    def wind_down(self, seconds: float) -> None:
        """Take no more requests; those under way have some seconds to end, then they get an error."""
        self._closed = True
        asyncio.get_running_loop().call_later(seconds, self._fail_all, _ending())

    async def stop(self) -> None:
        """End the thread after its step; whatever is under way gets an error."""
        self._closed = self._stopping = True
        self._fail_all(_ending())
        self._inbox.put(("wake", None))
        await asyncio.to_thread(self._thread.join, 30.0)

    def _accepted(self, ticket: Ticket, number: int) -> None:
        ticket.number = number
        if ticket.closed:  # its client went away meanwhile
            self._inbox.put(("cancel", ticket))
            return
        self._tickets[number] = ticket
        if not ticket.accepted.done():
            ticket.accepted.set_result(None)

    def _deliver(self, events: list[Event]) -> None:
        self._on_events(events)
        for event in events:
            ticket = self._tickets.get(event.request)
            if ticket is not None:
                ticket.deliver(event)

    def _fail_all(self, error: Exception) -> None:
        for ticket in list(self._tickets.values()):
            ticket.fail(error)

    # -- in the engine's thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._read_inbox()
            if not self._engine.busy:
                continue
            try:
                events = self._engine.step()
            except Exception:  # noqa: BLE001 - one bad batch must not end the server
                self._recover()
                continue
            self._count_endings(events)
            if events:
                self._tell(self._deliver, events)

    def _read_inbox(self) -> None:
        """Take what came in; wait for something where the engine has nothing to do."""
        try:
            message = self._inbox.get(timeout=_IDLE_S) if not self._engine.busy else self._inbox.get_nowait()
            while True:
                self._do(*message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _do(self, verb: str, ticket: Ticket | None) -> None:
        if ticket is None:
            return
        if verb == "cancel":
            if ticket.number is not None and self._live.pop(ticket.number, None) is not None:
                self._engine.cancel(ticket.number)
            return
        if ticket.closed:
            return
        try:
            number = self._engine.submit(ticket.request)
        except BurnishError as error:
            self._tell(ticket.fail, error)
        except Exception:  # noqa: BLE001 - the client gets an error, the log the reason
            logger.exception("the engine failed on a request")
            self._tell(ticket.fail, _failed())
        else:
            self._live[number] = ticket.request.copies
            self._tell(self._accepted, ticket, number)

    def _count_endings(self, events: list[Event]) -> None:
        for event in events:
            if event.ending is not None and event.request in self._live:
                self._live[event.request] -= 1
                if not self._live[event.request]:
                    del self._live[event.request]

    def _recover(self) -> None:
        """After a failed step: everything under way is given up, with an error for each client."""
        logger.exception("the engine failed")
        self.failures += 1
        for number in self._live:
            self._engine.cancel(number)
        self._live.clear()
        if self.backend.renew:
            self._engine = self.backend.renew()
        self._tell(self._fail_all, _failed())

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


def _ending() -> ApiError:
    return ApiError(503, "The server is shutting down.", code="shutting_down", headers={"Retry-After": "10"})


def _failed() -> ApiError:
    return ApiError(500, "The model failed on this batch of requests; the server's log says why.", code="engine_failed")
