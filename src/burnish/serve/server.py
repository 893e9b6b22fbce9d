"""Run the application on a socket until it is told to stop, and then end in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from burnish.errors import BurnishError
from burnish.serve.guard import App

_LAST_WORDS_S = 3  # for what is cut to hear of it


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        BurnishError: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except (OSError, OverflowError) as error:
        made.close()
        raise BurnishError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            at="--host, --port",
            fix="stop what uses that port, or take another: --port 8001 (0 takes a free one)",
        ) from error
    return made


class _Server(uvicorn.Server):
    """uvicorn's server; a first signal ends it in order, a second one at once, and none kills the process."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._on_stop)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again afterwards: to be told to stop is no failure."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_server(
    app: App,
    listening: socket.socket,
    *,
    drain_s: int,
    on_ready: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM; then take no more and wait until what is under way has ended.

    Args:
        drain_s: how long that may take; `on_stop`, called in the event loop, has to see to it.
        on_ready: called when the first request can come.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_graceful_shutdown=drain_s + _LAST_WORDS_S,
        timeout_keep_alive=5,
    )
    try:
        _Server(config, on_ready, on_stop).run(sockets=[listening])
    finally:
        listening.close()
