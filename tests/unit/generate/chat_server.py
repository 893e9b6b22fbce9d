"""A scripted server that speaks OpenAI's chat interface, for the client's side of it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.answering import in_background


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self._json(401, {"error": {"message": "wrong key", "type": "invalid_request_error"}})
            return
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in self.server.models]
        self._json(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        if self.server.status != 200:
            self._json(self.server.status, {"error": {"message": "too many tokens", "type": "invalid_request_error"}})
            return
        if not body.get("stream"):
            said = {"role": "assistant", "content": "".join(each.get("content", "") for each in self.server.deltas)}
            choice = {"index": 0, "message": said, "finish_reason": self.server.finish}
            whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            self._json(200, whole)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if None in self.server.deltas:  # it promises more than it sends
            self.send_header("Content-Length", "100000")
        self.end_headers()
        for delta in self.server.deltas:
            if delta is None:
                self.close_connection = True
                return
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": self.server.finish}]})
        usage = {"prompt_tokens": 5, "completion_tokens": self.server.count, "total_tokens": 5 + self.server.count}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, Any]) -> None:
        whole = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", **body}
        self.wfile.write(f"data: {json.dumps(whole)}\n\n".encode())
        self.wfile.flush()


@contextmanager
def chat_server(**changes: Any):
    """The running server with what it was asked; `url` is where its interface begins."""
    values = {"models": ["tuned"], "deltas": [{"content": "Hi "}, {"content": "there"}], "finish": "stop", "count": 7}
    values |= {"status": 200, "key": None, "asked": [], "keys": [], **changes}
    with in_background(_Handler, **values) as server:
        server.url = f"{server.origin}/v1"
        yield server
