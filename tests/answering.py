"""Servers for tests: one in the background while a block runs, and one that gives a test's own answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def in_background(handler: type[BaseHTTPRequestHandler], **values: Any) -> Iterator[Any]:
    """A server on a free port of this machine; `origin` is its address, `values` are further attributes of it."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.origin = f"http://127.0.0.1:{server.server_port}"
    for name, value in values.items():
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Answers(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), asked))
        status, body = self.server.reply(asked)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # who asked may have gone
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[Any]:
    """A server on this machine; set `.reply`, a function of what was asked, and read `.asked` and `.url`."""
    with in_background(_Answers, asked=[]) as server:
        server.url = server.origin
        yield server
