"""Scripted judges behind OpenAI's protocol: right, biased to the first answer, busy, speaking nonsense."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.answering import in_background

Script = Callable[[dict[str, Any]], Any]
"""What was asked → the text of a reply, or (status, body, headers)."""


def parts(asked: dict[str, Any]) -> dict[str, str]:
    """What stands between the marks of a prompt: question, reference, answer, answer_A, answer_B."""
    found = re.findall(r"<(\w+)-([0-9a-f]{6})>\n(.*?)\n</\1-\2>", asked["messages"][0]["content"], re.DOTALL)
    return {name: text for name, _, text in found}


def worth(answer: str) -> int:
    """How good an answer is: it says so, as `worth 7`."""
    return int(re.search(r"worth (\d+)", answer).group(1))


def right(asked: dict[str, Any]) -> str:
    """Sees what answers are worth."""
    found = parts(asked)
    if "answer" in found:
        return json.dumps({"reason": "as it says", "score": worth(found["answer"])})
    first, second = worth(found["answer_A"]), worth(found["answer_B"])
    return json.dumps({"reason": "r", "better": "tie" if first == second else "A" if first > second else "B"})


def first(asked: dict[str, Any]) -> str:
    """Likes what it reads first."""
    return '{"better": "A"}' if "answer_A" in parts(asked) else '{"score": 5}'


def nonsense(asked: dict[str, Any]) -> str:
    """Says something."""
    return "As a language model I enjoyed both."


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.server.models is None:
            self._send(404, {"error": {"message": "not here"}}, {})
            return
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in self.server.models]
        self._send(200, {"object": "list", "data": data}, {})

    def _allowed(self) -> bool:
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            self._send(401, {"error": {"message": "wrong key"}}, {})
            return False
        return True

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        with self.server.lock:
            self.server.asked.append(asked)
        said = self.server.script(asked)
        if not isinstance(said, str):
            status, body, headers = said
            self._send(status, body, headers)
            return
        self.server.answered += 1
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": self.server.finish}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self._send(200, {**whole, **({"usage": usage} if self.server.usage else {})}, {})


@contextmanager
def judge_server(script: Script = right, **changes: Any):
    """The running server; `asked` has every request, `url` is where its interface begins."""
    values = {"models": ["judge"], "key": None, "finish": "stop", "usage": True, **changes}
    values |= {"script": script, "asked": [], "answered": 0, "lock": threading.Lock()}
    with in_background(_Handler, **values) as server:
        server.url = f"{server.origin}/v1"
        yield server


def busy(times: int, then: Script = right, status: int = 429, **headers: str) -> Script:
    """Refuses so many requests, then answers."""
    left = [times]

    def script(asked: dict[str, Any]) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return status, {"error": {"message": "come back later"}}, headers
        return then(asked)

    return script
