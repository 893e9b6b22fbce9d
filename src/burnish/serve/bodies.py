"""What clients may send. Types are strict and unknown keys are errors: nothing is read and then ignored.

A field that admits only null, or only one value, is a parameter of OpenAI's that this server does not have; with any
other value it would change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_COPIES = 128
MOST_ALTERNATIVES = 20  # of one token's log-probabilities
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Body(BaseModel):
    """Strict types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str
    arguments: str | dict[str, Any] = Field(description="JSON in a text, or the object itself.")


class Call(Body):
    """A tool call that an earlier answer made; data to train on often has no ids, and no template needs one."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class Message(Body):
    """One message. What an answer of this server holds can be sent back as it is."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    name: str | None = Field(None, description="Of the tool that answers; other roles have none.")
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class FunctionTool(Body):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Of answers that are held to a form; others are not checked.")


class Tool(Body):
    type: Literal["function"]
    function: FunctionTool


class ChosenFunction(Body):
    name: str


class ChosenTool(Body):
    """The one function that is to be called."""

    type: Literal["function"]
    function: ChosenFunction


class SchemaFormat(Body):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    json_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class JsonFormat(Body):
    type: Literal["json_schema"]
    json_schema: SchemaFormat


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TemplateArguments(Body):
    """What a chat template can be asked for besides the conversation."""

    enable_thinking: bool | None = None


class Steering(Body):
    """What both kinds of request have."""

    model: str | None = Field(None, description="A name of /v1/models; the first of them by default.")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="Not in OpenAI's protocol. 0: off.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="Not in OpenAI's protocol. 1: off.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=1024)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    n: int | None = Field(None, ge=1, le=MAX_COPIES)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatBody(Steering):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer.")
    response_format: TextFormat | ObjectFormat | JsonFormat | None = Field(None, discriminator="type")
    chat_template_kwargs: TemplateArguments | None = Field(None, description="Not in OpenAI's protocol.")
    # Neither changes an answer.
    metadata: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    # What this server does not have.
    audio: None = None
    function_call: None = None
    functions: None = None
    modalities: list[Literal["text"]] | None = None
    moderation: None = None
    reasoning_effort: None = None
    store: Literal[False] | None = None
    verbosity: None = None
    web_search_options: None = None


class CompletionBody(Steering):
    prompt: str | list[str] | list[_TokenId] | list[list[_TokenId]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    best_of: int | None = Field(None, ge=1, le=MAX_COPIES)
    suffix: None = None


class ScoreBody(Body):
    """Conversations that end with an assistant's message: `messages` for one, `conversations` for several."""

    model: str | None = Field(None, description="A name of /v1/models; the first of them by default.")
    messages: list[Message] | None = Field(None, min_length=1)
    conversations: list[Annotated[list[Message], Field(min_length=1)]] | None = Field(
        None, min_length=1, max_length=1024
    )


class EvaluationBody(Body):
    """What ppo asks of a scoring service: `messages` are whole conversations as texts.

    Where `prompts` (messages of each) and `completions` are given, they are scored in the model's own template, and the
    texts are not looked at.
    """

    model: str | None = Field(None, description="Any name: there is one model.")
    messages: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=1024)
    prompts: list[Annotated[list[Message], Field(min_length=1)]] | None = None
    completions: list[str] | None = None
    tools: list[list[dict[str, Any]]] | None = None
    references: list[dict[str, Any]] | None = Field(None, description="Of the data; the model does not see them.")


class Evaluation(BaseModel):
    """One number a conversation, in their order."""

    object: Literal["score.evaluation"] = "score.evaluation"
    model: str
    scores: list[float]


class Score(BaseModel):
    object: Literal["score"] = "score"
    index: int
    score: float


class ScoreUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class Scores(BaseModel):
    """One number a conversation, in their order; only differences between scores mean anything."""

    object: Literal["list"] = "list"
    model: str
    data: list[Score]
    usage: ScoreUsage


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Health(BaseModel):
    status: Literal["ok", "failed"]
