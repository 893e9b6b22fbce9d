"""`/v1/completions`: text or tokens in, their continuation out; no template stands in between."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.completion_choice import Logprobs

from burnish.generate.request import Event, Request
from burnish.serve.bodies import CompletionBody
from burnish.serve.chat import stops_of
from burnish.serve.errors import bad_request
from burnish.serve.models import Served
from burnish.serve.reply import Piece, Reply, Shown, token_text
from burnish.serve.serving import (
    Serving,
    alternatives_of,
    answered,
    ask,
    copies_of,
    events_of,
    let_go,
    sampling_for,
    shape_for,
    while_connected,
)
from burnish.serve.spelling import Spelling
from burnish.serve.stream import DONE, EventStream, event
from burnish.serve.worker import Ticket

_MOST_PROMPTS = 128


@dataclass
class Continuation:
    """One request under way: `replies[prompt * n + copy]`."""

    serving: Serving
    served: Served
    body: CompletionBody
    tickets: list[Ticket]
    replies: list[Reply]

    def __post_init__(self) -> None:
        self.id = f"cmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def usage(self) -> CompletionUsage:
        prompt = sum(len(ticket.request.prompt) for ticket in self.tickets)
        sampled = sum(reply.sampled for reply in self.replies)
        return CompletionUsage(prompt_tokens=prompt, completion_tokens=sampled, total_tokens=prompt + sampled)

    def push(self, number: int, one: Event) -> tuple[int, Piece]:
        """Give an event to its reply; returns the reply's place and what came out."""
        place = number * (self.body.n or 1) + one.copy
        piece = self.replies[place].push(one)
        copies = self.replies[number * (self.body.n or 1) :][: self.body.n or 1]
        if all(reply.finish for reply in copies):
            self.tickets[number].close()
        return place, piece

    @property
    def ended(self) -> bool:
        return all(reply.finish for reply in self.replies)


async def answer_completion(serving: Serving, body: CompletionBody, http: HttpRequest) -> Response:
    """Answer a request, whole or as a stream. Raises ApiError."""
    worker = serving.engine_for("completions")
    served = serving.models.get(body.model)
    _check(body)
    prompts = await serving.aside(lambda: _prompts(served, body.prompt))
    if len(prompts) * (body.n or 1) > worker.limit:  # no queue would ever have room for them
        most = worker.limit // (body.n or 1)
        raise bad_request(f"A request can have at most {most} prompts on this server, each with n answers.", "prompt")
    requests = [_request(serving, served, body, ids) for _, ids in prompts]
    tickets: list[Ticket] = []
    try:
        for request in requests:
            tickets.append(await ask(serving, worker, request))
        under_way = Continuation(serving, served, body, tickets, _replies(served, body, prompts))
        if body.stream:
            return EventStream(_chunks(under_way), lambda: let_go(serving, tickets))
        done = await while_connected(http, asyncio.ensure_future(_whole(under_way)))
    except BaseException:
        let_go(serving, tickets)
        raise
    let_go(serving, tickets)
    return Response(status_code=499) if done is None else JSONResponse(done.model_dump(mode="json", exclude_unset=True))


def _check(body: CompletionBody) -> None:
    """Raise ApiError for parameters that contradict each other, or that this server does not do together."""
    if body.best_of not in (None, body.n or 1):
        raise bad_request("best_of is not supported: answers are not ranked. Leave it out, or set it to n.", "best_of")
    if body.echo and body.logprobs is not None:
        raise bad_request("echo together with logprobs is not supported: prompts are not scored.", "logprobs")
    if body.stream_options and not body.stream:
        raise bad_request("stream_options needs stream: true.", "stream_options")


def _request(serving: Serving, served: Served, body: CompletionBody, prompt: list[int]) -> Request:
    """The request to the engine for one prompt. Raises ApiError."""
    return Request(
        tuple(prompt),
        served.end_ids,
        sampling_for(serving, body, body.max_tokens, len(prompt)),
        copies=copies_of(serving, body),
        adapter=served.adapter,
        top_logprobs=alternatives_of(serving, body.logprobs is not None, body.logprobs),
        shape_logits=shape_for(serving, served, body),
    )


def _prompts(served: Served, prompt: str | list[str] | list[int] | list[list[int]]) -> list[tuple[str, list[int]]]:
    """The prompts as text and as token ids; text is tokenized as the tokenizer does by itself.

    Control tokens in text count: whoever sends a prompt here has rendered it.
    """
    many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    given: list[Any] = list(prompt) if many else [prompt]
    if len(given) > _MOST_PROMPTS:
        raise bad_request(f"A request may have {_MOST_PROMPTS} prompts.", "prompt")
    read = []
    for one in given:
        ids = served.tokenizer(one)["input_ids"] if isinstance(one, str) else list(one)
        if not ids:
            raise bad_request("The prompt is empty.", "prompt")
        if max(ids) >= served.rows:
            raise bad_request(f"The prompt holds the token {max(ids)}; this model has {served.rows}.", "prompt")
        read.append((one if isinstance(one, str) else served.template.decode(ids), ids))
    return read


def _replies(served: Served, body: CompletionBody, prompts: list[tuple[str, list[int]]]) -> list[Reply]:
    return [
        Reply(served.tokenizer, stops=stops_of(body.stop), begin=text if body.echo else "")
        for text, _ in prompts
        for _ in range(body.n or 1)
    ]


async def _whole(one: Continuation) -> Completion:
    async for number, happened in events_of(one.serving, one.tickets):
        one.push(number, happened)
        if one.ended:
            break
    answered(one.serving, one.tickets)
    choices = [
        CompletionChoice(
            index=place,
            text=reply.text,
            finish_reason=_finish(reply),
            logprobs=_logprobs(one.served.spelling, reply.tokens) if one.body.logprobs is not None else None,
        )
        for place, reply in enumerate(one.replies)
    ]
    return _wrapped(one, choices, usage=one.usage())


async def _chunks(one: Continuation) -> AsyncIterator[str]:
    usage = bool(one.body.stream_options and one.body.stream_options.include_usage)
    more: dict[str, Any] = {"usage": None} if usage else {}
    async for number, happened in events_of(one.serving, one.tickets):
        place, piece = one.push(number, happened)
        if piece:
            shown = one.body.logprobs is not None and piece.tokens
            choice = CompletionChoice.model_construct(  # OpenAI's type demands a finish reason that chunks do not have
                index=place,
                text=piece.text,
                finish_reason=piece.finish,
                logprobs=_logprobs(one.served.spelling, piece.tokens) if shown else None,
            )
            yield event(_wrapped(one, [choice], **more))
        if one.ended:
            break
    answered(one.serving, one.tickets)
    if usage:
        yield event(_wrapped(one, [], usage=one.usage()))
    yield DONE


def _finish(reply: Reply) -> Any:
    return reply.finish or "stop"


def _wrapped(one: Continuation, choices: list[CompletionChoice], **more: Any) -> Completion:
    return Completion.model_construct(
        id=one.id, object="text_completion", created=one.created, model=one.served.name, choices=choices, **more
    )


def _logprobs(spelling: Spelling, tokens: list[Shown]) -> Logprobs:
    return Logprobs(
        tokens=[token_text(spelling, one.token) for one in tokens],
        token_logprobs=[one.logprob for one in tokens],
        text_offset=[one.offset for one in tokens],
        top_logprobs=[{token_text(spelling, token): logprob for token, logprob in one.top} for one in tokens],
    )
