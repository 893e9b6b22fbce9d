"""The one place where tokens are made: requests come and go while others run (continuous batching).

Not thread-safe: one thread submits and steps. Chat, predict, rollouts and the server all stand on it.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from burnish.errors import ModelError
from burnish.generate.choose import choose
from burnish.generate.quick import tell_once
from burnish.generate.request import Ending, Event, Request
from burnish.generate.rows import PaddedRows, Rows, SlotRows
from burnish.kernels.cached_attention import reason_not_cached

_PREFILL_TOKENS = 4096  # prompt tokens of one step, unless a single prompt is longer: it bounds memory and waiting


@dataclass(slots=True)
class _Row:
    """One copy of a request while it runs."""

    number: int
    copy: int
    request: Request
    room: int  # tokens that may still be sampled
    draw: random.Random | None
    ids: list[int] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True)
class _Pool:
    """The running rows of one adapter; `rows[i]` is row i of `kept`."""

    kept: Rows
    rows: list[_Row] = field(default_factory=list)


class Engine:
    """Continues prompts with one model.

    Args:
        model: a causal language model of transformers, in eval mode.
        slots: rows that run at a time, over all adapters. Each takes memory for its keys and values as it grows.
        pad_id: any token; used only by models that need padded batches.
        activate: called with a request's adapter before the model runs for it.
    """

    def __init__(
        self, model: Any, *, slots: int = 8, pad_id: int = 0, activate: Callable[[str], None] | None = None
    ) -> None:
        self.model, self.slots = model, max(1, slots)
        self.window: int = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        self.plain_because = reason_not_cached(model)
        if self.plain_because is not None:
            tell_once(f"answers are made in whole batches, one batch after the other: {self.plain_because}")
        self._pad_id, self._activate = pad_id, activate
        self._queue: deque[tuple[int, Request]] = deque()
        self._pools: dict[str, _Pool] = {}
        self._next = 0

    @property
    def running(self) -> int:
        """Rows that are being continued."""
        return sum(len(pool.rows) for pool in self._pools.values())

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._queue) or any(pool.rows for pool in self._pools.values())

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number, which its events carry.

        Raises:
            ModelError: the prompt is empty or leaves no room, or there are more copies than slots.
        """
        length, limit = len(request.prompt), self.limit(request)
        if not length:
            raise ModelError("cannot generate from an empty prompt", at="prompt")
        if length >= limit:
            raise ModelError(
                f"the prompt has {length} tokens, and prompt and answer may have {limit}",
                at="prompt",
                fix="shorten the conversation (in chat: /clear), or raise max_length if you set it",
            )
        if request.copies > self.slots:
            raise ModelError(f"{request.copies} completions are asked for at once, and there are {self.slots} slots")
        self._next += 1
        self._queue.append((self._next, request))
        return self._next

    def limit(self, request: Request) -> int:
        """Tokens that prompt and answer of a request may have together."""
        return min(self.window, request.sampling.max_length or sys.maxsize)

    def cancel(self, number: int) -> None:
        """Forget a request: its slots are freed and no more events come for it."""
        self._queue = deque(entry for entry in self._queue if entry[0] != number)
        for pool in self._pools.values():
            for row in pool.rows:
                row.cancelled = row.cancelled or row.number == number

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Read the prompts that fit in now, or else give every running row its next token. Empty when idle."""
        for pool in self._pools.values():
            self._drop(pool, [place for place, row in enumerate(pool.rows) if row.cancelled])
        events = self._admit()
        if events:
            return events
        for name, pool in self._pools.items():
            if pool.rows:
                self._use(name)
                logits = pool.kept.step([row.ids[-1] for row in pool.rows])
                events += self._sample(pool, logits, list(range(len(pool.rows))))
        return events

    def _use(self, adapter: str) -> None:
        if self._activate:
            self._activate(adapter)

    def _admit(self) -> list[Event]:
        """Start the requests at the head of the queue that share an adapter and fit."""
        if not self._queue:
            return []
        adapter = self._queue[0][1].adapter
        pool = self._pools.get(adapter)
        if pool is None:
            pool = self._pools[adapter] = _Pool(self._make_rows())
        free, tokens = min(pool.kept.free(), self.slots - self.running), 0
        taken: list[tuple[int, Request]] = []
        while self._queue and self._queue[0][1].adapter == adapter:
            request = self._queue[0][1]
            tokens += len(request.prompt)
            if request.copies > free or (taken and tokens > _PREFILL_TOKENS):
                break
            free -= request.copies
            taken.append(self._queue.popleft())
        if not taken:
            return []
        self._use(adapter)
        logits = pool.kept.admit([request.prompt for _, request in taken], [request.copies for _, request in taken])
        first = len(pool.rows)
        pool.rows += [self._row(number, copy, one) for number, one in taken for copy in range(one.copies)]
        repeats = torch.tensor([request.copies for _, request in taken], device=logits.device)
        return self._sample(pool, logits.repeat_interleave(repeats, dim=0), list(range(first, len(pool.rows))))

    def _make_rows(self) -> Rows:
        if self.plain_because is None:
            return SlotRows(self.model, self.slots)
        return PaddedRows(self.model, self.slots, self._pad_id)

    def _row(self, number: int, copy: int, request: Request) -> _Row:
        sampling = request.sampling
        room = min(sampling.max_new_tokens, self.limit(request) - len(request.prompt))
        # A text as seed is hashed the same way everywhere; neighbouring seeds and copies are then far apart.
        draw = random.Random(None if sampling.seed is None else f"{sampling.seed}/{copy}")
        return _Row(number, copy, request, room, draw if sampling.do_sample else None)

    def _sample(self, pool: _Pool, logits: Tensor, places: Sequence[int]) -> list[Event]:
        """Choose the next tokens of the rows at `places` from their logits [N, V]; the finished ones leave."""
        rows = [pool.rows[place] for place in places]
        for place, row in enumerate(rows):
            if row.request.shape_logits:
                logits[place] = row.request.shape_logits(row.ids, logits[place])
        penalized = any(row.request.sampling.repetition_penalty != 1.0 for row in rows)
        seen = [[*row.request.prompt, *row.ids] for row in rows] if penalized else ()
        tokens, logprobs = choose(logits, [row.request.sampling for row in rows], [row.draw for row in rows], seen)
        said = logprobs.gather(1, tokens[:, None]).squeeze(1).tolist()
        events, done = [], []
        for place, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), said, strict=True)):
            row.ids.append(token)
            ending: Ending | None = None
            if token in row.request.stop_ids:
                ending = "stop"
            elif len(row.ids) >= row.room:
                ending = "length"
            top = _likeliest(logprobs[place], row.request.top_logprobs)
            events.append(Event(row.number, row.copy, token, logprob, ending, top))
            if ending:
                done.append(places[place])
        self._drop(pool, done)
        return events

    def _drop(self, pool: _Pool, places: Sequence[int]) -> None:
        if places:
            pool.rows = [pool.rows[old] for old in pool.kept.drop(places)]


def _likeliest(logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    values, tokens = logprobs.topk(min(count, logprobs.shape[-1]))
    return tuple(zip(tokens.tolist(), values.tolist(), strict=True))
