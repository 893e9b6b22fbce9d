"""`/v1/chat/completions`: messages in, answers out, rendered as in training."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import (
    Choice as ChunkChoice,
)
from openai.types.chat.chat_completion_chunk import (
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
)
from openai.types.chat.chat_completion_chunk import (
    ChoiceLogprobs as ChunkLogprobs,
)
from openai.types.chat.chat_completion_message_function_tool_call import (
    ChatCompletionMessageFunctionToolCall,
    Function,
)
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_usage import CompletionUsage

from burnish.data.messages import End, arrange, read_openai_messages
from burnish.data.records import Conversation, ToolCall
from burnish.data.rows import BadRow
from burnish.generate.request import Request
from burnish.serve.bodies import ChatBody, Message
from burnish.serve.errors import bad_request
from burnish.serve.held import check_choice, held_to, template_for
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


@dataclass
class Chat:
    """One request under way: `replies` are its copies."""

    serving: Serving
    served: Served
    body: ChatBody
    prompt: int
    ticket: Ticket
    replies: list[Reply]

    def __post_init__(self) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def usage(self) -> CompletionUsage:
        sampled = sum(reply.sampled for reply in self.replies)
        return CompletionUsage(prompt_tokens=self.prompt, completion_tokens=sampled, total_tokens=self.prompt + sampled)


async def answer_chat(serving: Serving, body: ChatBody, http: HttpRequest) -> Response:
    """Answer a request, whole or as a stream. Raises ApiError."""
    worker = serving.engine_for("answers")
    served = serving.models.get(body.model)
    _check(body)
    request = await serving.aside(lambda: _request(serving, served, body))
    replies = [_reply(served, body) for _ in range(request.copies)]
    chat = Chat(serving, served, body, len(request.prompt), await ask(serving, worker, request), replies)
    if body.stream:
        return EventStream(_chunks(chat), lambda: let_go(serving, [chat.ticket]))
    try:
        done = await while_connected(http, asyncio.ensure_future(_whole(chat)))
    finally:
        let_go(serving, [chat.ticket])
    return Response(status_code=499) if done is None else JSONResponse(done.model_dump(mode="json", exclude_unset=True))


def conversation_of(messages: Sequence[Message], end: End, param: str = "messages", tools: Any = ()) -> Conversation:
    """Messages as turns, in the order that training knows. Raises ApiError that names the message at fault."""
    for place, message in enumerate(messages):
        if message.name is not None and message.role != "tool":
            raise bad_request("name is known for messages of tools only.", f"{param}[{place}].name")
    try:
        rows = [message.model_dump(exclude_none=True) for message in messages]
        turns, _ = arrange(read_openai_messages(rows, param), param, end)
    except BadRow as bad:
        reason = bad.reason + (f": {bad.detail}" if bad.detail else "")
        raise bad_request(f"These messages cannot be used: {reason}.", bad.key or param) from bad
    return Conversation(turns, tuple(tools))


def stops_of(stop: str | list[str] | None) -> list[str]:
    """Stop strings as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


def _check(body: ChatBody) -> None:
    """Raise ApiError for parameters that contradict each other."""
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true.", "top_logprobs")
    if body.stream_options and not body.stream:
        raise bad_request("stream_options needs stream: true.", "stream_options")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise bad_request("max_tokens and max_completion_tokens differ; give one of them.", "max_tokens")
    check_choice(body)


def _tools(body: ChatBody) -> list[dict[str, Any]]:
    """The tools that the model is told of, as a data file would hold them."""
    if body.tool_choice == "none":
        return []
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or ()]
    for tool in tools:
        tool["function"].pop("strict", None)
    return tools


def _request(serving: Serving, served: Served, body: ChatBody) -> Request:
    """The request to the engine. Raises ApiError; TemplateError where the template cannot render the messages."""
    template, tools = template_for(served, body), _tools(body)
    if tools and not template.abilities.tools:
        raise bad_request("The chat template of this model has no place for tools.", "tools")
    conversation = conversation_of(body.messages, "prompt", tools=tools)
    prompt = template.prompt_ids(conversation)
    if tools and served.call_format is None:
        raise bad_request("The chat template of this model writes calls in a way that cannot be read back.", "tools")
    top = alternatives_of(serving, bool(body.logprobs), body.top_logprobs)
    return Request(
        tuple(prompt),
        template.stop_ids,
        sampling_for(serving, body, body.max_completion_tokens or body.max_tokens, len(prompt)),
        copies=copies_of(serving, body),
        adapter=served.adapter,
        top_logprobs=top,
        shape_logits=shape_for(serving, served, body, held_to(served, template, body)),
    )


def _reply(served: Served, body: ChatBody) -> Reply:
    tools = _tools(body)
    return Reply(
        served.tokenizer,
        stops=stops_of(body.stop),
        calls=served.call_format if tools else None,
        tools=tools,
        most_calls=1 if body.parallel_tool_calls is False else None,
    )


async def _whole(chat: Chat) -> ChatCompletion:
    """The answer when all copies have ended."""
    async for _, one in events_of(chat.serving, [chat.ticket]):
        chat.replies[one.copy].push(one)
        if all(reply.finish for reply in chat.replies):
            chat.ticket.close()
            break
    answered(chat.serving, [chat.ticket])
    return ChatCompletion(
        id=chat.id,
        object="chat.completion",
        created=chat.created,
        model=chat.served.name,
        choices=[_choice(chat, place, reply) for place, reply in enumerate(chat.replies)],
        usage=chat.usage(),
    )


def _choice(chat: Chat, place: int, reply: Reply) -> Choice:
    calls = [
        ChatCompletionMessageFunctionToolCall(
            id=call.id or _new_id(), type="function", function=Function(name=call.name, arguments=_json(call))
        )
        for call in reply.calls
    ]
    content = None if calls and not reply.text else reply.text
    message = ChatCompletionMessage(role="assistant", content=content, refusal=None, **_if("tool_calls", calls))
    logprobs = None
    if chat.body.logprobs:
        logprobs = ChoiceLogprobs(content=_logprobs(chat.served.spelling, reply.tokens), refusal=None)
    return Choice(index=place, message=message, finish_reason=reply.finish or "stop", logprobs=logprobs)


async def _chunks(chat: Chat) -> AsyncIterator[str]:
    """The events of a stream."""
    usage = bool(chat.body.stream_options and chat.body.stream_options.include_usage)
    for place in range(len(chat.replies)):
        yield _chunk(chat, place, ChoiceDelta(role="assistant", content="", refusal=None), Piece(), usage)
    async for _, one in events_of(chat.serving, [chat.ticket]):
        piece = chat.replies[one.copy].push(one)
        if piece:
            yield _chunk(chat, one.copy, _delta(piece), piece, usage)
        if all(reply.finish for reply in chat.replies):
            chat.ticket.close()
            break
    answered(chat.serving, [chat.ticket])
    if usage:
        yield event(_wrapped(chat, [], usage=chat.usage()))
    yield DONE


def _delta(piece: Piece) -> ChoiceDelta:
    calls = [
        ChoiceDeltaToolCall(
            index=place,
            id=call.id or _new_id(),
            type="function",
            function=ChoiceDeltaToolCallFunction(name=call.name, arguments=_json(call)),
        )
        for place, call in enumerate(piece.calls)
    ]
    return ChoiceDelta(**_if("content", piece.text), **_if("tool_calls", calls))


def _chunk(chat: Chat, place: int, delta: ChoiceDelta, piece: Piece, usage: bool) -> str:
    logprobs = None
    if chat.body.logprobs and piece.tokens:
        logprobs = ChunkLogprobs(content=_logprobs(chat.served.spelling, piece.tokens), refusal=None)
    choice = ChunkChoice(index=place, delta=delta, finish_reason=piece.finish, logprobs=logprobs)
    return event(_wrapped(chat, [choice], **({"usage": None} if usage else {})))


def _wrapped(chat: Chat, choices: list[ChunkChoice], **more: Any) -> ChatCompletionChunk:
    return ChatCompletionChunk(
        id=chat.id,
        object="chat.completion.chunk",
        created=chat.created,
        model=chat.served.name,
        choices=choices,
        **more,
    )


def _logprobs(spelling: Spelling, tokens: Sequence[Shown]) -> list[ChatCompletionTokenLogprob]:
    return [
        ChatCompletionTokenLogprob(
            token=token_text(spelling, one.token),
            bytes=list(spelling(one.token)),
            logprob=one.logprob,
            top_logprobs=[
                TopLogprob(token=token_text(spelling, token), bytes=list(spelling(token)), logprob=logprob)
                for token, logprob in one.top
            ],
        )
        for one in tokens
    ]


def _json(call: ToolCall) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)


def _new_id() -> str:
    """Nine letters and digits, which every template accepts as the id of a call."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def _if(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}
