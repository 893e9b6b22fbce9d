"""From answers to replies: what is to be asked, what is known already, and asking the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from burnish.errors import BurnishError
from burnish.evaluate.judging.cache import ReplyCache, reply_key
from burnish.evaluate.judging.cost import Prices, guess_tokens
from burnish.evaluate.judging.endpoint import JudgeEndpoint, Manner, Reply, deciding
from burnish.evaluate.judging.prompts import NONE, Own, comparing_prompt, grading_prompt, language_for, language_of
from burnish.evaluate.judging.rows import Row

_GRACE_S = 15.0  # for replies that are under way when the others end; they are paid

Side = Literal["new", "old"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked about the answers.

    Attributes:
        rubrics: names of `RUBRICS` or of `own`.
        language: auto, en or zh.
        repeats: times that everything is asked.
        reasons: whether the judge says why.
        referenced: whether it sees the data's own answer, where there is one.
        seed: of the first repeat; None sends none.
        own: the user's rubrics.
    """

    rubrics: tuple[str, ...]
    language: str = "auto"
    repeats: int = 1
    reasons: bool = True
    referenced: bool = True
    seed: int | None = None
    own: Own = field(default_factory=lambda: NONE)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        kind: score asks for a grade of one answer, better compares two.
        number: of the row, or of the pair.
        side: whose answer is graded, or in a comparison stands first, as A.
        repeat: from 0.
    """

    kind: Literal["score", "better"]
    rubric: str
    number: int
    side: Side
    repeat: int
    prompt: str

    def seed(self, first: int | None) -> int | None:
        return None if first is None else first + self.repeat


def grading_asks(rows: Sequence[Row], side: Side, plan: Plan) -> list[Ask]:
    """A request for each answer, rubric and repeat; rows without an answer have none."""
    asks = []
    for number, row in enumerate(rows):
        if row.answer is None:
            continue
        language, reference = language_of(row.last, plan.language), row.reference if plan.referenced else None
        for rubric in plan.rubrics:
            spoken = language_for(rubric, language, plan.own)
            asked = (rubric, spoken, row.question, row.answer, reference)
            prompt = grading_prompt(*asked, reasons=plan.reasons, own=plan.own)
            asks += [Ask("score", rubric, number, side, repeat, prompt) for repeat in range(plan.repeats)]
    return asks


def comparing_asks(pairs: Sequence[tuple[Row, Row]], plan: Plan) -> list[Ask]:
    """Two requests for each pair, rubric and repeat, one in each order; equal answers need no judge."""
    asks = []
    for number, (new, old) in enumerate(pairs):
        if new.answer is None or old.answer is None or new.answer == old.answer:
            continue
        language, reference = language_of(new.last, plan.language), new.reference if plan.referenced else None
        orders: list[tuple[Side, str, str]] = [("new", new.answer, old.answer), ("old", old.answer, new.answer)]
        for rubric in plan.rubrics:
            spoken = language_for(rubric, language, plan.own)
            for first, one, other in orders:
                asked = (rubric, spoken, new.question, one, other, reference)
                prompt = comparing_prompt(*asked, reasons=plan.reasons, own=plan.own)
                asks += [Ask("better", rubric, number, first, repeat, prompt) for repeat in range(plan.repeats)]
    return asks


def keys_of(asks: Iterable[Ask], url: str, model: str, manner: Manner, seed: int | None) -> dict[Ask, str]:
    """The key of each request in the cache. Requests that are the same have the same key and are sent once."""
    same = {"url": url.rstrip("/"), "model": model, **deciding(manner)}
    return {
        ask: reply_key({**same, "kind": ask.kind, "prompt": ask.prompt, "repeat": ask.repeat, "seed": ask.seed(seed)})
        for ask in asks
    }


@dataclass
class Spending:
    """What was paid in this call. `promised` is for requests that are under way, at the most that they may cost."""

    prices: Prices
    limit: float | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    promised: float = 0.0
    under_way: int = 0

    @property
    def cost(self) -> float | None:
        return self.prices.of(self.prompt_tokens, self.reply_tokens)

    def promise(self, prompt: str, max_tokens: int) -> float | None:
        """Set money aside for a request; None where the limit has no room for it."""
        most = self.prices.of(guess_tokens(prompt), max_tokens) or 0.0
        if self.limit is not None and (self.cost or 0.0) + self.promised + most > self.limit:
            return None
        self.promised += most
        self.under_way += 1
        return most

    def pay(self, promised: float, reply: Reply) -> None:
        self.under_way -= 1
        self.promised = self.promised - promised if self.under_way else 0.0
        if reply.fault is None:
            self.prompt_tokens += reply.prompt_tokens
            self.reply_tokens += reply.reply_tokens


async def ask_all(
    wanted: Mapping[str, Ask],
    endpoint: JudgeEndpoint,
    cache: ReplyCache,
    spending: Spending,
    *,
    at_once: int,
    seed: int | None,
    on_reply: Callable[[Reply], None],
) -> dict[str, Reply]:
    """Send requests, a few at a time; each reply is in the cache before the next thing happens.

    After an error, a limit of money or Ctrl-C no request begins any more; those under way get some seconds to come in.

    Args:
        wanted: key → request; in this order.
        on_reply: called for each as it comes.
    Returns:
        key → reply.
    Raises:
        BurnishError: the server is gone or refuses everything, the money is spent, or the cache cannot be written.
    """
    left = iter(wanted.items())
    found: dict[str, Reply] = {}
    stopping, came = asyncio.Event(), asyncio.Condition()

    async def one(key: str, ask: Ask) -> None:
        async with came:
            while (promised := spending.promise(ask.prompt, endpoint.manner.max_tokens)) is None:
                if not spending.under_way:
                    raise _spent(spending, len(wanted) - len(found))
                await came.wait()  # what is under way mostly costs less than it may
        reply = Reply(fault="it was broken off")
        try:
            reply = await endpoint.ask(ask.prompt, ask.kind, ask.seed(seed))
        finally:
            async with came:
                spending.pay(promised, reply)
                came.notify_all()
        if reply.fault is None:
            cache.put(key, asdict(reply))
        found[key] = reply
        on_reply(reply)

    async def work() -> None:
        for key, ask in left:
            if stopping.is_set():
                return
            await one(key, ask)

    try:
        await _together([work() for _ in range(min(at_once, len(wanted)))], stopping)
    finally:
        await endpoint.close()
    return found


async def _together(works: Sequence[Coroutine[Any, Any, None]], stopping: asyncio.Event) -> None:
    """Run all until they end or one fails; then the others, and after Ctrl-C all, end their piece or are ended."""
    workers = [asyncio.create_task(each) for each in works]
    try:
        if workers:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        stopping.set()
        under_way = [each for each in workers if not each.done()]
        if under_way:
            await asyncio.wait(under_way, timeout=_GRACE_S)
        for each in under_way:
            each.cancel()
        outcomes = await asyncio.gather(*workers, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def known_replies(keys: Iterable[str], cache: ReplyCache) -> dict[str, Reply]:
    """What the cache holds of these requests."""
    held = ((key, cache.get(key)) for key in dict.fromkeys(keys))
    return {key: _held(reply) for key, reply in held if reply is not None}


def _held(reply: Mapping[str, Any]) -> Reply:
    return Reply(
        reply["text"],
        str(reply.get("finish") or "stop"),
        reply.get("prompt_tokens") or 0,
        reply.get("reply_tokens") or 0,
    )


def _spent(spending: Spending, left: int) -> BurnishError:
    return BurnishError(
        f"{left} replies are missing: the next one could cost more than --max-cost {spending.limit:g} allows "
        f"({spending.cost:.4g} was spent)",
        at="--max-cost",
        fix="allow more: what has come is kept and not paid twice",
    )
