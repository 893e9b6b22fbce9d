"""What a client sees of one answer as its tokens come: text up to a stop string, calls of tools, log-probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from burnish.data.records import ToolCall
from burnish.generate.request import Event
from burnish.generate.stream import TextStream
from burnish.serve.spelling import Spelling
from burnish.template.calls import CallFormat

Finish = Literal["stop", "length", "tool_calls"]
LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI writes this


@dataclass(frozen=True, slots=True)
class Shown:
    """One token with its log-probability: `top` holds the likeliest tokens, `offset` where its text begins."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclass(slots=True)
class Piece:
    """What can be shown now. `finish` is set in the last piece."""

    text: str = ""
    tokens: list[Shown] = field(default_factory=list)
    calls: tuple[ToolCall, ...] = ()
    finish: Finish | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens or self.calls or self.finish)


class Reply:
    """One copy of an answer.

    Args:
        tokenizer: of the model.
        stops: strings that end the answer; neither they nor what follows is shown.
        calls: how the template writes calls, where the request has tools.
        tools: their descriptions.
        most_calls: further ones are left out, and the answer ends where one begins; None for any number.
        begin: text that stands before the answer and is shown first (`echo`).
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        stops: Sequence[str] = (),
        calls: CallFormat | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        most_calls: int | None = None,
        begin: str = "",
    ) -> None:
        self.stops, self._calls, self._tools, self._most_calls = tuple(stops), calls, tools, most_calls
        self._stream = TextStream(tokenizer, skip_special_tokens=calls is None)
        self._special = _pattern(tokenizer.all_special_tokens) if calls is not None else None
        self._full, self._shown = begin, 0
        self._begin = len(begin)
        self._pending: list[Shown] = []
        self.sampled = 0
        self.finish: Finish | None = None
        self.text = ""
        self.tokens: list[Shown] = []
        self.calls: tuple[ToolCall, ...] = ()

    def push(self, event: Event) -> Piece:
        """Take one event; returns what it lets out. After `finish`, nothing more."""
        if self.finish:
            return Piece()
        before = len(self._full)
        if event.token is not None:
            self.sampled += 1
            if event.ending != "stop":
                self._pending.append(Shown(event.token, _finite(event.logprob), event.top, before))
                self._full += self._stream.push(event.token)
        if event.ending is not None:
            self._full += self._stream.finish()
        cut = self._find_stop(before)
        if cut is None:
            cut = self._find_call_too_many()
        if cut is not None:
            self._full = self._full[:cut]
            self._pending = [token for token in self._pending if token.offset < cut]
        if cut is not None or event.ending is not None:
            self.finish = "length" if cut is None and event.ending == "length" else "stop"
            return self._record(self._last())
        return self._record(self._take(self._safe()))

    def _record(self, piece: Piece) -> Piece:
        self.text += piece.text
        self.tokens += piece.tokens
        self.calls += piece.calls
        return piece

    def _find_stop(self, before: int) -> int | None:
        """Where the first stop string begins, in text that came since `before`."""
        reach = max(map(len, self.stops), default=0)
        start = max(self._begin, before - reach + 1)
        return min((place for stop in self.stops if (place := self._full.find(stop, start)) >= 0), default=None)

    def _find_call_too_many(self) -> int | None:
        """Where a call begins that is one too many."""
        if self._calls is None or self._most_calls is None:
            return None
        marks = self._calls.starts
        places = sorted(found.start() for mark in marks for found in re.finditer(re.escape(mark), self._full))
        if len(places) <= self._most_calls:
            return None
        cut = places[self._most_calls]
        return cut if self._calls.read(self._full[:cut], self._tools)[1] else None

    def _safe(self) -> int:
        """Up to where the text can be shown: what may become a stop string or a call is held back."""
        starts = self._calls.starts if self._calls else ()
        if self._calls and not starts:
            return self._shown
        end = min([place for mark in starts if (place := self._full.find(mark, self._begin)) >= 0] or [len(self._full)])
        own = len(self._full) - self._begin
        held = max((_begun(self._full, mark, own) for mark in (*self.stops, *starts)), default=0)
        return max(self._shown, min(end, len(self._full) - held))

    def _take(self, end: int) -> Piece:
        text = self._full[self._shown : end]
        self._shown = end
        out = [token for token in self._pending if token.offset < end]
        self._pending = self._pending[len(out) :]
        return Piece(self._plain(text), out)

    def _last(self) -> Piece:
        """Everything that is left, with calls read out of it."""
        if self._calls:
            words, calls = self._calls.read(self._full, self._tools)
            calls = calls[: self._most_calls]
            if calls:
                told = self._full[: self._shown]
                rest = words[len(told) :] if words.startswith(told) else ""
                tokens, self._pending = self._pending, []
                self.finish = "tool_calls"
                return Piece(self._plain(rest), tokens, calls, self.finish)
        piece = self._take(len(self._full))
        piece.tokens += self._pending
        piece.finish = self.finish
        return piece

    def _plain(self, text: str) -> str:
        return self._special.sub("", text) if self._special else text


def _begun(text: str, mark: str, most: int) -> int:
    """How many of the last characters of a text, at most `most`, are the first ones of a mark but not all of it."""
    lengths = range(min(len(mark) - 1, most), 0, -1)
    return next((length for length in lengths if text.endswith(mark[:length])), 0)


def token_text(spelling: Spelling, token: int) -> str:
    """A token as text; what is no whole character is replaced."""
    return spelling(token).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB) if math.isfinite(logprob) else LEAST_LOGPROB


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in names) or r"(?!)")
