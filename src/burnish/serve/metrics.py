"""Counters in Prometheus' text format. They live in the event loop, so nothing is locked."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable

from burnish.generate.request import Event

_EDGES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RECENT_S = 10.0


class Histogram:
    """Counts of seconds below fixed edges."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_EDGES_S) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_EDGES_S, seconds)] += 1
        self.total += seconds

    def lines(self, name: str) -> Iterable[str]:
        below = 0
        for edge, count in zip(_EDGES_S, self.counts, strict=False):
            below += count
            yield f'{name}_bucket{{le="{edge}"}} {below}'
        yield f'{name}_bucket{{le="+Inf"}} {sum(self.counts)}'
        yield f"{name}_sum {self.total:.6f}"
        yield f"{name}_count {sum(self.counts)}"


class Metrics:
    """What the server has done so far."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.prompt_tokens = self.generated_tokens = self.cancelled = 0
        self.first_token, self.whole = Histogram(), Histogram()
        self._recent: deque[tuple[float, int]] = deque()

    def answered(self, route: str, method: str, status: int) -> None:
        """A response has begun."""
        self.requests[route, method, status] += 1

    def stepped(self, events: list[Event]) -> None:
        """The engine has made a step."""
        made = sum(event.token is not None for event in events)
        self.generated_tokens += made
        self._recent.append((time.monotonic(), made))
        self._forget()

    def _forget(self) -> None:
        while self._recent and time.monotonic() - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()

    def text(self, *, running: int, waiting: int, failures: int) -> str:
        """Everything, as Prometheus reads it."""
        self._forget()
        lines: list[str] = []

        def put(name: str, kind: str, words: str, values: Iterable[str]) -> None:
            lines.extend([f"# HELP {name} {words}", f"# TYPE {name} {kind}", *values])

        rows = sorted(self.requests.items())
        name = "burnish_requests_total"
        labels = 'route="{}",method="{}",status="{}"'
        put(name, "counter", "Requests answered.", [f"{name}{{{labels.format(*key)}}} {count}" for key, count in rows])
        speed = sum(count for _, count in self._recent) / _RECENT_S
        for name, kind, words, value in (
            ("burnish_answers_running", "gauge", "Answers that the engine works on.", running),
            ("burnish_answers_waiting", "gauge", "Answers in the queue.", waiting),
            ("burnish_cancelled_total", "counter", "Requests given up: client gone, or out of time.", self.cancelled),
            ("burnish_engine_failures_total", "counter", "Steps of the engine that failed.", failures),
            ("burnish_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            ("burnish_generated_tokens_total", "counter", "Tokens generated.", self.generated_tokens),
            ("burnish_tokens_per_second", "gauge", f"Tokens generated a second, last {_RECENT_S:.0f} s.", speed),
        ):
            put(name, kind, words, [f"{name} {value}"])
        for name, words, histogram in (
            ("burnish_time_to_first_token_seconds", "From a request to its first token.", self.first_token),
            ("burnish_request_seconds", "From a request to the end of its answers or scores.", self.whole),
        ):
            put(name, "histogram", words, histogram.lines(name))
        return "\n".join(lines) + "\n"
