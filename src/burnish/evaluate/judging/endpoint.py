"""A judge behind an OpenAI-compatible address, asked with patience: refusals, pauses, servers that know less."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from burnish.errors import BurnishError
from burnish.evaluate.judging.cost import guess_tokens
from burnish.evaluate.judging.pace import Pace, asked_pause, pause_after
from burnish.evaluate.judging.prompts import reply_schema
from burnish.evaluate.judging.rows import whole_text
from burnish.generate.remote import told
from burnish.rewards.judge import judge_client

_LONGEST_WAIT_S = 600.0  # a server that asks for more has closed for today
_GIVE_UP_AFTER = 5  # requests in a row that were never answered: the server is gone
_REFUSED_IN_A_ROW = 10  # requests that were refused one by one without any success before: it is not the text
# What servers may not know, and how they say so.
_COMPLAINTS = {
    "response_format": r"response_format|json_schema|guided|structured output",
    "temperature": r"\btemperature\b",
    "seed": r"\bseed\b",
    "max_tokens": r"max_tokens.*(not supported|unsupported).*max_completion_tokens",
}
_OF_THE_TEXT = re.compile(r"context|too long|length|too large|content|safety|policy|filter", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Manner:
    """How replies are asked for.

    Attributes:
        temperature: 0 takes the likeliest reply.
        max_tokens: of one reply.
        form: json_schema holds the server to the shape of a reply, text does not; auto tries the first.
        reasons: whether the judge says why.
        timeout_s: of one request.
        retries: times that a request is sent again after 429, 5xx or silence.
    """

    temperature: float = 0.0
    max_tokens: int = 512
    form: str = "auto"
    reasons: bool = True
    timeout_s: float = 120.0
    retries: int = 6


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request. `fault`: why there is no text; a request with a fault was not paid."""

    text: str = ""
    finish: str = "stop"
    prompt_tokens: int = 0
    reply_tokens: int = 0
    fault: str | None = None


@dataclass
class JudgeEndpoint:
    """One model of one server. Used within one event loop.

    Attributes:
        keys: environment variables that may hold the key, for messages.
        note: gets what the user should know.
    """

    url: str
    model: str
    key: str | None = field(repr=False)
    manner: Manner
    pace: Pace
    keys: Sequence[str] = ()
    note: Callable[[str], None] = lambda _: None
    _client: Any = field(default=None, repr=False)
    _unknown: set[str] = field(default_factory=set)
    _answered: int = 0
    _silent: int = 0
    _refused: int = 0

    async def ask(self, prompt: str, kind: str, seed: int | None) -> Reply:
        """Ask once, and again where the server is busy or fails.

        Args:
            kind: score or better, the field that the reply must have.
            seed: of a reply that is drawn; None without one.
        Raises:
            BurnishError: the server refuses the key, has no such model, or has been silent for several requests.
        """
        import openai

        self._client = self._client or judge_client(self.url, self.key, timeout_s=self.manner.timeout_s)
        attempt, why = 0, ""
        while attempt <= self.manner.retries:
            await self.pace.turn()
            body = self._body(prompt, kind, seed)
            try:
                with told(self.url, self.model, self.keys, "--judge-model"):
                    try:
                        return self._reply(await self._client.chat.completions.create(**body), prompt)
                    except openai.APIStatusError as error:
                        refusal = self._refusal(error, body)
                    except openai.APIConnectionError as error:  # silence is one of them
                        late = isinstance(error, openai.APITimeoutError)
                        refusal = _Refusal(f"no reply within {self.manner.timeout_s:g} s" if late else _cause(error))
            except BurnishError as error:
                error.fix = error.fix or "look at the server's log"
                raise
            if isinstance(refusal, Reply):
                return refusal
            if refusal.again_as_is:
                continue
            why = refusal.why
            pause = pause_after(attempt) if refusal.pause_s is None else refusal.pause_s
            attempt += 1
            if refusal.for_all:
                self.pace.hold(pause)
            elif attempt <= self.manner.retries:
                await self.pace.sleep(pause)
        return self._gave_up(why)

    async def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            await self._client.close()

    def _body(self, prompt: str, kind: str, seed: int | None) -> dict[str, Any]:
        manner = self.manner
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        body["max_tokens"] = manner.max_tokens
        body["temperature"] = manner.temperature
        if seed is not None:
            body["seed"] = seed
        if manner.form != "text":
            schema = {"name": f"judge_{kind}", "strict": True, "schema": reply_schema(kind, manner.reasons)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if "max_tokens" in self._unknown:
            body["max_completion_tokens"] = body["max_tokens"]
        return {name: value for name, value in body.items() if name not in self._unknown}

    def _reply(self, done: Any, prompt: str) -> Reply:
        self._silent = self._refused = 0
        self._answered += 1
        choices = getattr(done, "choices", None)
        if not choices:
            raise ValueError("no choices")  # `told` says what that means
        text = whole_text(choices[0].message.content or "")
        usage = getattr(done, "usage", None)
        return Reply(
            text,
            choices[0].finish_reason or "stop",
            getattr(usage, "prompt_tokens", None) or guess_tokens(prompt),
            getattr(usage, "completion_tokens", None) or guess_tokens(text),
        )

    def _refusal(self, error: Any, body: dict[str, Any]) -> Reply | _Refusal:
        """What to do about a status that is no success. Raises it where asking again, or something else, is in vain."""
        status, said = error.status_code, _said(error)
        if status == 429 and "insufficient_quota" in said:
            raise error
        if status in (408, 409, 425, 429) or status >= 500:
            pause = asked_pause(error.response.headers, time.time())
            if pause is not None and pause > _LONGEST_WAIT_S:
                raise BurnishError(
                    f"the judge asks to wait for {pause:.0f} seconds",
                    at=self.url,
                    fix="give the same command later; replies that have come are kept",
                )
            return _Refusal(f"status {status}: {said[:160]}", pause, for_all=status == 429 or pause is not None)
        if status not in (400, 413, 422):
            raise error
        if name := self._not_known(said, body):
            if name not in self._unknown:
                self._unknown.add(name)
                self.note(_NOTES[name])
            return _Refusal(again_as_is=True)
        self._refused += 1
        if self._refused >= _REFUSED_IN_A_ROW and not self._answered:
            raise error
        return Reply(fault=f"the server refused it: {said[:160]}")

    def _not_known(self, said: str, body: dict[str, Any]) -> str | None:
        """The part of a request that a server complains of, where the request makes sense without it."""
        droppable = [name for name in _COMPLAINTS if name in body and (name, self.manner.form) != _INSISTED]
        for name in droppable:
            if re.search(_COMPLAINTS[name], said, re.IGNORECASE):
                return name
        unsaid = "response_format" in droppable and not self._answered and not re.search(_OF_THE_TEXT, said)
        return "response_format" if unsaid else None  # what old servers do not know they do not always name

    def _gave_up(self, why: str) -> Reply:
        self._silent += 1
        if self._silent >= _GIVE_UP_AFTER or not self._answered:
            raise BurnishError(
                f"the judge does not answer: {why}",
                at=self.url,
                fix="give the same command again when it runs; replies that have come are kept and not paid twice",
            )
        return Reply(fault=f"no reply after {self.manner.retries + 1} tries: {why}")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A request that may be sent again: after a pause, its own or one for all, or at once in another shape."""

    why: str = ""
    pause_s: float | None = None
    for_all: bool = False
    again_as_is: bool = False


_INSISTED = ("response_format", "json_schema")
_NOTES = {
    "response_format": "the judge's server takes no JSON schema: replies are read as they come",
    "temperature": "the judge's server lets nobody set the temperature: its own is used",
    "seed": "the judge's server takes no seed: repeats cannot be told apart by it",
    "max_tokens": "the judge's server calls max_tokens max_completion_tokens; its thoughts count in them",
}


def _said(error: Any) -> str:
    """A server's complaint in one line: message, parameter and code."""
    body = error.body if isinstance(error.body, dict) else {}
    nested = body.get("error")
    inner = nested if isinstance(nested, dict) else body
    words = [inner.get("message") or body.get("detail") or error.message, inner.get("param"), inner.get("code")]
    return " ".join(" ".join(str(word) for word in words if word).split())


def _cause(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:160]


def deciding(manner: Manner) -> dict[str, Any]:
    """What of a manner decides a reply, for its key in the cache."""
    return {name: value for name, value in asdict(manner).items() if name not in ("timeout_s", "retries")}
