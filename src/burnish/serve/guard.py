"""The door of the server: who may come in, how much they may bring, and that it is JSON.

One plain ASGI layer around the application. It reads a request's body whole, so that the application never sees one
that is too large, broken or nested without end.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any

from burnish.log import logger
from burnish.serve.errors import ApiError, bad_request
from burnish.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DEEPEST = 100  # levels of JSON


@dataclass(frozen=True)
class Door:
    """What the guard asks for.

    `key`: to be sent as `Authorization: Bearer KEY`; None asks for none. `hosts`: names that the Host header may
    have; empty allows all. `open_paths` need no key. `largest`: bytes of a body. `time_limit_s`: for reading it.
    """

    key: str | None = None
    hosts: tuple[str, ...] = ()
    open_paths: tuple[str, ...] = ("/health",)
    largest: int = 4 * 2**20
    time_limit_s: float = 30.0


class Guard:
    """Checks every request before the application sees it, and counts the answers.

    Args:
        routes: the paths by which answers are counted.
        takes_json: the paths to which JSON is posted.
    """

    def __init__(
        self, app: App, door: Door, metrics: Metrics, routes: Collection[str], takes_json: Collection[str]
    ) -> None:
        self.app, self.door, self.metrics = app, door, metrics
        self.routes, self.takes_json = frozenset(routes), frozenset(takes_json)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        begun = False

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.metrics.answered(self._route(scope), _method(scope), message["status"])
            await send(message)

        try:
            self._check(scope)
            receive = await self._read(scope, receive)
            await self.app(scope, receive, counted)
        except ApiError as error:
            if error.status == 413:  # the rest of the body is not read
                error.headers = {"Connection": "close"}
            await error.response()(scope, receive, counted)
        except _Gone:
            return
        except Exception:  # noqa: BLE001 - whatever it is, the client sees no traceback
            logger.exception("a request failed")
            if not begun:
                failed = ApiError(500, "The server failed on this request; its log says why.", code="server_error")
                await failed.response()(scope, receive, counted)

    def _route(self, scope: Scope) -> str:
        path = getattr(scope.get("route"), "path", None) or scope["path"]
        return path if path in self.routes else "other"

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.door.hosts and _host_name(host) not in self.door.hosts:
            raise ApiError(421, "This server does not answer for that host name.", code="wrong_host")
        if self.door.key is None or scope["path"] in self.door.open_paths or scope["method"] == "OPTIONS":
            return
        given = headers.get(b"authorization", b"")
        kind, _, key = given.partition(b" ")
        if kind.lower() != b"bearer" or not secrets.compare_digest(key.strip(), self.door.key.encode()):
            raise ApiError(401, "A valid API key is needed: Authorization: Bearer KEY.", code="invalid_api_key",
                           headers={"WWW-Authenticate": "Bearer"})  # fmt: skip

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, checked; returns a `receive` that gives it at once and then what the connection says."""
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15:
            raise bad_request("The Content-Length is no number.")
        if int(length) > self.door.largest:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.door.time_limit_s):
                body = await self._all(receive)
        except TimeoutError:
            raise ApiError(408, "The body did not arrive in time.", code="timeout") from None
        if scope["method"] == "POST" and scope["path"] in self.takes_json:
            _check_json(headers.get(b"content-type", b""), body)
        given = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def _all(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message.get("body", b"")
            if len(body) > self.door.largest:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(body)

    def _too_large(self) -> ApiError:
        limit = self.door.largest / 2**20
        return ApiError(413, f"The body of a request may have {limit:.3g} MiB.", code="request_too_large")


class _Gone(Exception):
    """The client left before it had sent everything."""


def _check_json(kind: bytes, body: bytes) -> None:
    """Refuse what is not JSON, or JSON that a tokenizer or a parser would stumble over.

    Asking for the content type also keeps pages of other sites out: a browser sends JSON to a foreign server only
    after that has allowed it.
    """
    if kind.split(b";")[0].strip().lower() != b"application/json":
        raise ApiError(415, "The body has to be JSON: Content-Type: application/json.", code="unsupported_media_type")
    try:
        parsed = json.loads(body, parse_constant=_no_number)
        if _depth(parsed) > _DEEPEST:
            raise bad_request(f"The body is nested more than {_DEEPEST} levels deep.", code="invalid_json")
        json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else _reason(error)
        raise bad_request(f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise bad_request("The body has to be a JSON object.", code="invalid_json")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8, or holds half of a surrogate pair"
    return str(error).rstrip(".")[:200]


def _depth(value: Any) -> int:
    """How many levels of lists and objects a value has; stops counting soon after there are too many."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        depth += 1
    return depth


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method in ("GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "PATCH") else "other"


def _host_name(host: str) -> str:
    """`name` of `name:port`, of `[::1]:port` what is between the brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
