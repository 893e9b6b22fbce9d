"""How fast a judge may be asked: so many requests a minute, and pauses that the server asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


class Pace:
    """Lets requests begin one after the other, evenly over the minute; a pause holds all of them.

    Args:
        per_minute: requests that may begin in a minute; None for no limit.
        clock, sleep: the time in seconds and how to let it pass; tests have their own.
    """

    def __init__(
        self,
        per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.between_s = 60.0 / per_minute if per_minute else 0.0
        self.clock, self.sleep = clock, sleep
        self._next = clock()

    async def turn(self) -> None:
        """Wait until the next request may begin."""
        while (wait := self._next - self.clock()) > 0:
            await self.sleep(wait)  # the pause may have grown meanwhile
        self._next = max(self._next, self.clock()) + self.between_s

    def hold(self, seconds: float) -> None:
        """Let no request begin for so long."""
        self._next = max(self._next, self.clock() + seconds)


def pause_after(attempt: int) -> float:
    """Seconds to wait after the n-th refusal of a request, n from 0: 1, 2, 4 … up to 60."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to wait for, by Retry-After; None where it does not say.

    Args:
        headers: of its answer.
        now: seconds since 1970, for answers that name a date.
    Source: RFC 9110, section 10.2.3; OpenAI's `retry-after-ms`.
    """
    try:
        if (exact := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(exact) / 1000)
    except ValueError:
        pass  # then the header that all servers know is looked at
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - now)
        except ValueError:
            return None
