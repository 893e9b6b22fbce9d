"""Errors as OpenAI's clients know them: a status and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """Something to tell a client.

    Args:
        status: of HTTP.
        message: one sentence, without anything about the machine.
        param: the parameter at fault.
        code: a word for programs.
        headers: to send besides.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, headers=self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be answered as it stands."""
    return ApiError(400, message, param=param, code=code)


def too_long(asked: int, answer: int | None, window: int) -> ApiError:
    """A prompt, or a prompt with the answer that is asked for, that the model's context does not hold."""
    text = f"This model's maximum context length is {window} tokens. However, "
    if answer is None:
        text += f"your prompt has {asked} tokens and leaves no room for an answer."
    else:
        text += f"you asked for {asked + answer} tokens ({asked} in the prompt, {answer} in the answer)."
    return bad_request(text, "messages" if answer is None else "max_tokens", "context_length_exceeded")
