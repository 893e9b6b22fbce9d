"""Answers as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from burnish.log import logger
from burnish.serve.errors import ApiError

DONE = "data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream that calls `on_close` when it ends, in whichever way: all sent, client gone, server ending."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], on_close: Callable[[], None]) -> None:
        super().__init__(_with_errors(content), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._on_close = on_close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


def event(chunk: BaseModel) -> str:
    """One chunk as an event."""
    return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"


async def _with_errors(content: AsyncIterator[str]) -> AsyncIterator[str]:
    """The events; an error, for which it is too late to be a status, becomes the last one."""
    try:
        async for one in content:
            yield one
    except ApiError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    except Exception:  # noqa: BLE001 - the client sees no traceback
        logger.exception("a stream failed")
        failed = ApiError(500, "The server failed on this request; its log says why.", code="server_error")
        yield f"data: {json.dumps(failed.body)}\n\n"
