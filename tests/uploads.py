"""A small server on this machine that speaks the part of the Hub's protocol by which a model is uploaded.

Large files come as LFS objects: their sums are told first, then each is put where the server says, then one commit
names them all. Small ones stand in the commit itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from huggingface_hub import constants

from tests.answering import in_background

LARGE = (".safetensors", ".gguf", "tokenizer.json")


@dataclass
class Hub:
    """What was uploaded, and how the server behaves.

    `files`: name → content, as the last commit left them. `stored`: LFS objects by their SHA-256. `role`: what the
    token may do. `refuses`: paths with their status.
    """

    url: str = ""
    token: str = "hf_secret"
    role: str = "write"
    created: list[dict[str, Any]] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)
    refuses: dict[str, int] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self) -> None:
        """An LFS object; its address holds its sum, and needs no token."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        right = hashlib.sha256(data).hexdigest() == oid
        if right:
            self.hub.stored[oid] = data
        self.send(200 if right else 422, {})

    def answer(self, body: bytes) -> None:
        path = self.path.split("?")[0]
        if path in self.hub.refuses:
            return self.send(self.hub.refuses[path], {"error": "refused", "url": f"{self.hub.url}/me/it"})
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.send(401, {"error": "Invalid username or password."})
        name, _, rest = path.removeprefix("/api/models/").partition("/commit/")
        if path == "/api/whoami-v2":
            self.send(200, {"name": "me", "auth": {"accessToken": {"role": self.hub.role}}})
        elif path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            self.send(200, {"url": f"{self.hub.url}/me/it"})
        elif path == "/api/validate-yaml":
            self.hub.cards.append(json.loads(body)["content"])
            self.send(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": mode(each["path"]), "shouldIgnore": False} for each in asked]
            self.send(200, {"files": modes})
        elif path == "/me/it.git/info/lfs/objects/batch":
            objects = [each | {"actions": self.actions(each["oid"])} for each in json.loads(body)["objects"]]
            self.send(200, {"transfer": "basic", "objects": objects})
        elif (name, rest) == ("me/it", "main"):
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            self.send(404, {"error": f"no {path}"})
        return None

    def actions(self, oid: str) -> dict[str, Any]:
        return {"upload": {"href": f"{self.hub.url}/objects/{oid}"}}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.stored[value["oid"]]
        self.send(200, {"commitUrl": f"{self.hub.url}/me/it/commit/1", "commitOid": "1"})

    def send(self, status: int, told: dict[str, Any]) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on a free port of this machine, which huggingface_hub takes for its own while the block runs."""
    hub = Hub()
    with in_background(type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.url = server.origin
        monkeypatch.setattr(constants, "ENDPOINT", server.origin)  # it has read its environment when it was imported
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # LFS: its store speaks plain HTTP
        yield hub
