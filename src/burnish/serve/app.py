"""The application: routes, what errors look like, and the guard around them."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from burnish import __version__
from burnish.serve.bodies import (
    ChatBody,
    CompletionBody,
    ErrorBody,
    Evaluation,
    EvaluationBody,
    Health,
    ScoreBody,
    Scores,
)
from burnish.serve.chat import answer_chat
from burnish.serve.completions import answer_completion
from burnish.serve.errors import ApiError, bad_request
from burnish.serve.guard import App, Door, Guard
from burnish.serve.score import answer_evaluation, answer_score
from burnish.serve.serving import Serving

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": words}
    for status, words in {
        400: "The request cannot be answered as it stands.",
        401: "A key is needed.",
        404: "There is no such model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "The body is not declared as JSON.",
        421: "The Host header names another host.",
        429: "The queue is full; Retry-After says when to come back.",
        500: "The server failed.",
        503: "The server is shutting down.",
        504: "The answer took too long.",
    }.items()
}
_STREAM = {"text/event-stream": {"schema": {"type": "string", "description": "Chunks, then data: [DONE]"}}}


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


def build_app(serving: Serving, door: Door, *, cors_origins: Sequence[str] = (), docs: bool = True) -> App:
    """The whole server as one ASGI application.

    Args:
        door: what is asked of every request before it is read.
        cors_origins: pages that a browser lets talk to this server; `*` for all.
        docs: show `/docs` and `/openapi.json`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        serving.start()
        yield
        await serving.stop()

    app = FastAPI(
        title="Burnish",
        version=__version__,
        description="Chat with what was trained, in OpenAI's protocol.",
        lifespan=lifespan,
        openapi_url="/openapi.json" if docs else None,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    _add_errors(app)
    _add_answers(app, serving)
    _add_state(app, serving)
    if docs:
        app.get("/docs", include_in_schema=False)(lambda: HTMLResponse(_page(app)))
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    methods = {getattr(route, "path", ""): getattr(route, "methods", None) or () for route in app.routes}
    posts = [path for path, known in methods.items() if "POST" in known]
    return Guard(app, door, serving.metrics, methods, posts)


def _add_answers(app: FastAPI, serving: Serving) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=None,
        responses={200: {"model": ChatCompletion, "content": _STREAM}},
        summary="Answer a conversation",
    )
    async def chat_completions(body: ChatBody, http: Request) -> Response:
        return await answer_chat(serving, body, http)

    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": Completion, "content": _STREAM}},
        summary="Continue a text",
    )
    async def completions(body: CompletionBody, http: Request) -> Response:
        return await answer_completion(serving, body, http)

    @app.post("/v1/score", summary="Score answers with a reward model")
    async def score(body: ScoreBody) -> Scores:
        return await answer_score(serving, body)

    @app.post("/v1/score/evaluation", summary="Score answers as ppo asks for it (reward_model_type: api)")
    async def score_evaluation(body: EvaluationBody) -> Evaluation:
        return await answer_evaluation(serving, body)


def _add_state(app: FastAPI, serving: Serving) -> None:
    @app.get("/v1/models", summary="The models by name")
    async def models() -> ModelList:
        return ModelList(data=[one.card() for one in serving.models.all])

    @app.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str) -> Model:
        return serving.models.get(name).card()

    @app.get("/health", response_model=Health, summary="Whether the engine works")
    async def health(response: Response) -> Health:
        failed = serving.worker is not None and not serving.worker.alive
        response.status_code = 503 if failed else 200
        return Health(status="failed" if failed else "ok")

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
    async def metrics() -> PlainTextResponse:
        held = serving.worker.held if serving.worker else serving.scoring
        running = serving.worker.running if serving.worker else 0
        failures = serving.worker.failures if serving.worker else 0
        text = serving.metrics.text(running=running, waiting=max(held - running, 0), failures=failures)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _explained(max(error.errors(), key=_telling)).response()

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        words = {404: "There is nothing at this address.", 405: "This address does not take that method."}
        text = words.get(error.status_code, "The request cannot be answered.")
        return ApiError(error.status_code, text, headers=dict(error.headers or {})).response()


def _telling(problem: Any) -> tuple[int, bool]:
    """Of the problems with all kinds of value that were tried, the deepest one that is of the right type says most."""
    return len(_place(problem)), not problem["type"].endswith("_type")


def _explained(problem: Any) -> ApiError:
    """A problem that pydantic found, in the words of this server."""
    place = _place(problem)
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".") or None
    kind = problem["type"]
    if kind == "extra_forbidden":
        return bad_request(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "missing":
        return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if kind == "none_required":
        return bad_request(f"'{param}' is not supported by this server; leave it out.", param, "unsupported_parameter")
    if kind == "literal_error":
        expected = problem.get("ctx", {}).get("expected", "")
        return bad_request(f"'{param}' can only be {expected} on this server.", param, "unsupported_value")
    return bad_request(f"'{param}' is not valid: {problem['msg']}.", param, "invalid_value")


def _place(problem: Any) -> list[Any]:
    """Where a problem is, without pydantic's names for the kinds of value that were tried there."""
    kinds = ("str", "int", "float", "bool", "ChosenTool")
    return [
        part
        for part in problem["loc"]
        if not (isinstance(part, str) and (part in ("body", *kinds) or "[" in part or part.startswith("constrained-")))
    ]


def _page(app: FastAPI) -> str:
    """A page of the addresses, which needs nothing from the network."""
    rows = []
    for path, methods in app.openapi()["paths"].items():
        for method, about in methods.items():
            rows.append(
                f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
                f"<td>{html.escape(about.get('summary', ''))}</td></tr>"
            )
    return (
        "<!doctype html><meta charset=utf-8><title>Burnish</title>"
        "<style>body{font:16px system-ui;margin:3em auto;max-width:50em}td{padding:.3em 1em .3em 0}</style>"
        "<h1>Burnish</h1><p>This server speaks OpenAI's protocol: point any client of it at <code>/v1</code>. "
        'Every parameter is in <a href="/openapi.json">openapi.json</a>.</p>'
        f"<table>{''.join(rows)}</table>"
    )
