"""A server in this process for tests: a scripted engine, or a real one, behind a free port."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import torch
import uvicorn

from burnish.errors import ModelError
from burnish.generate.request import Event, Request
from burnish.serve.app import build_app
from burnish.serve.guard import LOOPBACK, Door
from burnish.serve.server import open_socket
from burnish.serve.serving import Serving

Script = Callable[[Request, int], list[int]]


class ScriptedEngine:
    """Keeps the engine's contract with answers from a script: (request, copy) → tokens, a stop token among them.

    One token for each running copy a step. `gate` holds steps back until it is set; `log` has what was asked of it.
    """

    def __init__(self, script: Script, *, slots: int = 4, window: int = 1024, step_s: float = 0.0) -> None:
        self.script, self.slots, self.window, self.step_s = script, slots, window, step_s
        self.gate = threading.Event()
        self.gate.set()
        self.requests: list[Request] = []
        self.cancelled: list[int] = []
        self.fail_next = False
        self._rows: dict[tuple[int, int], list[int]] = {}
        self._made: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def submit(self, request: Request) -> int:
        self.threads.add(threading.get_ident())
        if not request.prompt or len(request.prompt) >= self.window:
            raise ModelError("the engine refuses this prompt")
        self.requests.append(request)
        number = len(self.requests) - 1
        self._waiting += [(number, copy) for copy in range(request.copies)]
        return number

    def cancel(self, number: int) -> None:
        self.threads.add(threading.get_ident())
        self.cancelled.append(number)
        self._waiting = [key for key in self._waiting if key[0] != number]
        self._rows = {key: row for key, row in self._rows.items() if key[0] != number}

    def step(self) -> list[Event]:
        self.threads.add(threading.get_ident())
        self.gate.wait(5)
        if self.step_s:
            time.sleep(self.step_s)
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("a secret of the engine: /root/weights")
        while self._waiting and len(self._rows) < self.slots:
            key = self._waiting.pop(0)
            self._rows[key] = list(self.script(self.requests[key[0]], key[1]))
            self._made[key] = 0
        return [self._next(key) for key in list(self._rows)]

    def _next(self, key: tuple[int, int]) -> Event:
        request, row = self.requests[key[0]], self._rows[key]
        token = row.pop(0)
        self._made[key] += 1
        ending = None
        if token in request.stop_ids:
            ending = "stop"
        elif self._made[key] >= request.sampling.max_new_tokens or not row:
            ending = "length"
        if ending:
            del self._rows[key]
        top = tuple((token + place, -0.5 - place) for place in range(request.top_logprobs))
        return Event(key[0], key[1], token, -0.5, ending, top)

    @property
    def busy(self) -> bool:
        return bool(self._rows or self._waiting)

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting)


def sampled(guide, spelling, stops, draw, rows, tokens=400, mark=""):
    """What a model without any sense writes under a guide; the likeliest end is preferred now and then.

    `mark` is what ends a text in the grammar, in the place of a quotation mark.
    """
    made = []
    while len(made) < tokens:
        logits = guide.shape(made, torch.zeros(rows))
        allowed = torch.isfinite(logits).nonzero().flatten().tolist()
        assert allowed, "nothing may follow"
        said = b"".join(map(spelling, made))
        begun = max((n for n in range(len(mark)) if said.endswith(mark[:n].encode())), default=0)
        ends = [mark[begun : begun + 1].encode(), *([] if begun else [b'"', b"}", b"]"])]
        closing = [token for token in allowed if token in stops or spelling(token) in ends]
        token = draw.choice(closing if closing and draw.random() < (0.95 if begun else 0.6) else allowed)
        if token in stops:
            return b"".join(map(spelling, made)).decode()
        made.append(token)
    return None


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def running(serving: Serving, door: Door | None = None, **options) -> Iterator[str]:
    """The address of a server that runs while the block does."""
    listening = open_socket("127.0.0.1", 0)
    app = build_app(serving, door or Door(hosts=LOOPBACK), **options)
    server = _Quiet(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def exchange(address: str, raw: bytes, *, read: bool = True, timeout: float = 10.0) -> bytes:
    """Send bytes as they are and read until the server closes or falls silent."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(raw)
        if not read:
            return b""
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                break
            received += part
        return received
