"""A small server on this machine that speaks the part of the hub's protocol that reading a dataset uses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.answering import in_background


@dataclass
class Repository:
    """Revision → file name → content, and the header of the card."""

    revisions: dict[str, dict[str, bytes]]
    card: dict[str, Any] = field(default_factory=dict)
    token: str | None = None

    def commit(self, revision: str) -> str:
        return hashlib.sha1(f"{sorted(self.revisions[revision].items())}".encode()).hexdigest()


@dataclass
class Hub:
    """The server's repositories, what it was asked, and files whose first answer it breaks off."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        name, _, rest = (
            path.removeprefix("/api/datasets/")
            .removeprefix("/datasets/")
            .partition("/revision/" if path.startswith("/api/") else "/resolve/")
        )
        repository = self.hub.repositories.get(name)
        if repository is None or (
            repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}"
        ):
            self.send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/"):
            self.describe(name, repository, rest)
        else:
            self.file(repository, rest, body)

    def describe(self, name: str, repository: Repository, revision: str) -> None:
        if revision not in repository.revisions:
            self.send(404, b"", True, {"X-Error-Code": "RevisionNotFound"})
            return
        files = [{"rfilename": file} for file in repository.revisions[revision]]
        told = {"id": name, "sha": repository.commit(revision), "siblings": files, "cardData": repository.card}
        self.send(200, json.dumps(told).encode(), True, {"Content-Type": "application/json"})

    def file(self, repository: Repository, rest: str, body: bool) -> None:
        commits = {repository.commit(revision): files for revision, files in repository.revisions.items()}
        commit, _, name = rest.partition("/")
        data = commits.get(commit, {}).get(name)
        if data is None:
            self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted:
            self.hub.ranges.append(wanted)
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self.send(206, data[first:], body, headers)
        else:
            self.send(200, data, body, headers, self.hub.cut.pop(name, None) if body else None)

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of this machine, while the block runs."""
    hub = Hub()
    with in_background(type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.url = server.origin
        yield hub
