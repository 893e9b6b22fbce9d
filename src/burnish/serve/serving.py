"""What a running server has, and how a request's parameters become a request to the engine."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request as HttpRequest

from burnish.errors import BurnishError
from burnish.generate.request import Event, Request, Sampling
from burnish.serve.bodies import Steering
from burnish.serve.errors import ApiError, bad_request, too_long
from burnish.serve.held import Held
from burnish.serve.metrics import Metrics
from burnish.serve.models import Models, Served
from burnish.serve.shaping import Shape, one_after_another, penalties
from burnish.serve.worker import Backend, Ticket, Worker

if TYPE_CHECKING:
    from burnish.generate.reward import RewardModel

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """`queue`: answers that may wait. `time_s`: of a whole request. `body_bytes`: of what a client sends."""

    queue: int = 64
    time_s: float = 600.0
    body_bytes: int = 4 * 2**20


@dataclass
class Serving:
    """The models and the engine that answers for them, or the reward model that scores.

    `defaults`: how answers are sampled where a request does not say. `scored_at_a_time`: conversations in one pass of
    the reward model.
    """

    models: Models
    backend: Backend | None = None
    scorer: RewardModel | None = None
    scored_at_a_time: int = 8
    defaults: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.worker: Worker | None = None
        # One thread renders and scores, so that the event loop stays free and no template is used by two at once.
        self._side = ThreadPoolExecutor(1, thread_name_prefix="burnish-side")
        self.scoring = 0

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        if self.backend is not None:
            self.worker = Worker(self.backend, queue_limit=self.limits.queue, on_events=self.metrics.stepped)
            self.worker.start()

    def wind_down(self, seconds: float) -> None:
        """Take no more requests, and end those under way within some seconds."""
        if self.worker is not None:
            self.worker.wind_down(seconds)

    async def stop(self) -> None:
        """End the engine's thread and free what it holds."""
        if self.worker is not None:
            await self.worker.stop()
        if self.backend is not None:
            self.backend.close()
        self._side.shutdown(wait=False, cancel_futures=True)

    @property
    def window(self) -> int:
        """Tokens that prompt and answer may have together."""
        assert self.backend is not None
        return min(self.backend.engine.window, self.defaults.max_length or sys.maxsize)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run work in the side thread; what the user can mend becomes a 400."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._side, work)
        except BurnishError as error:
            raise bad_request(f"{error.what}" + (f" ({error.fix})" if error.fix else ""), "messages") from error

    def engine_for(self, what: str) -> Worker:
        """The worker. Raises ApiError where this server only scores."""
        if self.worker is None:
            raise bad_request(f"This server has a reward model, which gives no {what}; ask /v1/score.", "model")
        return self.worker


def sampling_for(serving: Serving, body: Steering, wanted: int | None, prompt: int) -> Sampling:
    """How a request is sampled: what it says, and the server's defaults for what it does not.

    Args:
        wanted: the most tokens that the request asks for.
        prompt: the prompt's tokens.
    Raises:
        ApiError: the context does not hold the prompt, or not the answer that is asked for.
    """
    room = serving.window - prompt
    if room < 1:
        raise too_long(prompt, None, serving.window)
    if wanted is not None and wanted > room:
        raise too_long(prompt, wanted, serving.window)
    chosen = replace(
        serving.defaults, max_new_tokens=min(serving.defaults.max_new_tokens, room) if wanted is None else wanted
    )
    given = {name: getattr(body, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")}
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    if body.temperature is not None:
        chosen = replace(chosen, do_sample=body.temperature > 0)
    return chosen if chosen.temperature > 0 else replace(chosen, do_sample=False, temperature=1.0)


def copies_of(serving: Serving, body: Steering) -> int:
    """How many answers a request wants. Raises ApiError for more than can run at a time."""
    copies, slots = body.n or 1, serving.backend.slots if serving.backend else 1
    if copies > slots:
        raise bad_request(f"n can be at most {slots} on this server, which runs so many answers at a time.", "n")
    return copies


def shape_for(serving: Serving, served: Served, body: Steering, held: Held | None = None) -> Shape | None:
    """What a request does to the logits. Raises ApiError where the engine, or the vocabulary, has no place for it."""
    bias: dict[int, float] = {}
    for name, value in (body.logit_bias or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < served.rows):
            raise bad_request("The keys of logit_bias are token ids of this model.", "logit_bias")
        bias[int(name)] = value
    own = penalties(bias, body.presence_penalty or 0.0, body.frequency_penalty or 0.0)
    shape = one_after_another([*([own] if own else []), *([held.shape] if held else [])])
    if shape is not None and serving.backend is not None and not serving.backend.shapes_logits:
        name = next(
            (name for name in ("logit_bias", "presence_penalty", "frequency_penalty") if getattr(body, name)),
            held.param if held else "",
        )
        raise bad_request(f"{name} is not supported with the engine {serving.backend.name}.", name)
    return shape


def alternatives_of(serving: Serving, wanted: bool, count: int | None) -> int:
    """How many alternatives a request wants for each token. Raises ApiError where the engine tells no likelihoods."""
    if wanted and serving.backend is not None and not serving.backend.logprobs:
        raise bad_request(f"logprobs is not supported with the engine {serving.backend.name}.", "logprobs")
    return count or 0


async def ask(serving: Serving, worker: Worker, request: Request) -> Ticket:
    """Hand a request to the engine. Raises ApiError."""
    try:
        ticket = await worker.submit(request)
    except BurnishError as error:
        raise bad_request(error.what, "prompt") from error
    serving.metrics.prompt_tokens += len(request.prompt)
    return ticket


async def events_of(serving: Serving, tickets: list[Ticket]) -> AsyncIterator[tuple[int, Event]]:
    """The events of some tickets as they come, each with its ticket's number, until every one has ended.

    Raises:
        ApiError: 504 where they take longer than the server's limit; or what the engine says.
    """
    started = min(ticket.started for ticket in tickets)
    deadline = started + serving.limits.time_s
    first = True
    waits: dict[asyncio.Future[list[Event]], int] = {
        asyncio.ensure_future(ticket.events()): number for number, ticket in enumerate(tickets)
    }
    try:
        while waits:
            left = deadline - time.monotonic()
            done, _ = await asyncio.wait(waits, timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise ApiError(504, f"The answer took longer than {serving.limits.time_s:g} s.", code="timeout")
            for wait in done:
                number = waits.pop(wait)
                if first:
                    serving.metrics.first_token.add(time.monotonic() - started)
                    first = False
                for event in wait.result():
                    yield number, event
                if not tickets[number].finished:
                    waits[asyncio.ensure_future(tickets[number].events())] = number
    finally:
        for wait in waits:
            wait.cancel()


def answered(serving: Serving, tickets: list[Ticket]) -> None:
    """Count a request whose answers have all come to their end."""
    serving.metrics.whole.add(time.monotonic() - min(ticket.started for ticket in tickets))


def let_go(serving: Serving, tickets: list[Ticket]) -> None:
    """Free the slots of tickets that have not ended."""
    for ticket in tickets:
        if not ticket.closed:
            serving.metrics.cancelled += 1
            ticket.close()


async def while_connected(http: HttpRequest, work: asyncio.Future[T]) -> T | None:
    """The result of some work; None, with the work cancelled, where the client goes away first."""
    gone = asyncio.ensure_future(_disconnect(http))
    both: set[asyncio.Future[Any]] = {work, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return None
        return work.result()
    finally:
        gone.cancel()
        work.cancel()


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
