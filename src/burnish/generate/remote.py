"""A model behind an OpenAI-compatible URL, to be talked to like one that is here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from burnish.data.export import openai_message
from burnish.data.records import Turn
from burnish.errors import BurnishError, MissingExtraError
from burnish.generate.reply import Put, Reply
from burnish.generate.request import Ending, Sampling
from burnish.registry import did_you_mean
from burnish.rewards.judge import from_environment

_KEYS = ("OPENAI_API_KEY", "API_KEY")
_TIMEOUT_S = 600.0
_LOCAL = ("127.0.0.1", "localhost", "::1")
_BEYOND_OPENAI = ("top_k", "repetition_penalty")
"""What OpenAI's own interface has no name for; vLLM, llama.cpp and Burnish take it in the body."""


def is_url(name: str) -> bool:
    """Whether a model is named by the address of a server."""
    return name.startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """An address without the name and password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass
class RemoteModel:
    """A served model. Only what was set by the user is sent; for the rest the server's own values hold."""

    client: Any
    model: str
    name: str
    sampling: Sampling = field(default_factory=Sampling)
    given: frozenset[str] = frozenset()
    turns: list[Turn] = field(default_factory=list)

    def steer(self, sampling: Sampling, given: Collection[str]) -> None:
        """Take other values of the sampler; `given` are the names that the user has set."""
        self.sampling, self.given = sampling, frozenset(given)

    def begin(self, turns: Sequence[Turn], *, seed: int | None = None) -> Reply:
        """Begin to answer a conversation that ends with a user's turn, without remembering it."""
        sent = self.arguments() | ({} if seed is None else {"seed": seed})
        messages = [openai_message(replace(turn, reasoning=None, weight=1.0)) for turn in turns]
        return Reply(lambda put: self._write(messages, sent, put), waits=False, keeps_thoughts=True)

    def arguments(self) -> dict[str, Any]:
        """What is sent besides the messages, by the names of OpenAI's interface."""
        sampling, given = self.sampling, self.given
        sent: dict[str, Any] = {}
        if "max_new_tokens" in given:
            sent["max_tokens"] = sampling.max_new_tokens
        if "do_sample" in given and not sampling.do_sample:
            sent["temperature"] = 0.0
        sent |= {key: getattr(sampling, key) for key in ("temperature", "top_p") if key in given and key not in sent}
        if sampling.seed is not None:
            sent["seed"] = sampling.seed
        body = {key: getattr(sampling, key) for key in _BEYOND_OPENAI if key in given}
        return sent | ({"extra_body": body} if body else {})

    def _write(self, messages: list[dict[str, Any]], sent: dict[str, Any], put: Put) -> Ending:
        with told(self.name, self.model):
            stream = self.client.chat.completions.create(
                model=self.model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                **sent,
            )
            with stream:
                return _relay(stream, put)


def _relay(stream: Any, put: Put) -> Ending:
    """Pass the pieces of a stream on; reasoning that comes beside the answer is put between tags before it."""
    ending: Ending = "cancelled"  # unless the server says how it ended
    counted = thinking = 0
    for chunk in stream:
        for choice in chunk.choices[:1]:
            said = choice.delta.content or ""
            extra = choice.delta.model_extra or {}
            thought = extra.get("reasoning_content") or extra.get("reasoning") or ""
            text = ""
            if thought:
                text, thinking = ("" if thinking else "<think>\n") + thought, 1
            if said and thinking:
                text, thinking = f"{text}\n</think>\n\n", 0
            counted += bool(said or thought)
            put(text + said, int(bool(said or thought)))
            if choice.finish_reason:
                ending = "length" if choice.finish_reason == "length" else "stop"
        if chunk.usage is not None:  # pieces are not always tokens
            put("", chunk.usage.completion_tokens - counted)
    return ending


@contextmanager
def told(url: str, model: str, keys: Sequence[str] = _KEYS, option: str = "--model") -> Iterator[None]:
    """Turn what goes wrong between here and a server into an error that says what to do.

    `keys`: the environment variables that a key may stand in. `option`: what the user names the model with.
    """
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        raise BurnishError("the server does not answer", at=url, fix="look at its log, or try again") from error
    except openai.APIConnectionError as error:
        cause = str(error.__cause__ or error)
        raise BurnishError(
            f"the connection to the server failed: {cause}", at=url, fix="see whether it runs, or mend the URL"
        ) from error
    except openai.AuthenticationError as error:
        raise BurnishError(
            "the server refuses the key" if from_environment(keys) else "the server wants a key",
            at=url,
            fix=f"set the environment variable {' or '.join(keys)} to it",
        ) from error
    except openai.APIStatusError as error:
        other = f"choose another {option} than {model}, or mend the URL" if model else "mend the URL"
        fix = f"{other}, which mostly ends in /v1" if error.status_code == 404 else None
        raise BurnishError(f"the server answers {error.status_code}: {_message(error)}", at=url, fix=fix) from error
    except openai.APIError as error:  # an error in the middle of a stream
        raise BurnishError(f"the server broke off: {_message(error)}", at=url) from error
    except ValueError as error:
        raise BurnishError(
            "this is no answer of an OpenAI-compatible server", at=url, fix="give the address that ends in /v1"
        ) from error
    except Exception as error:
        if not _of_the_transport(error):
            raise
        raise BurnishError(f"the server broke off: {error}", at=url, fix="look at its log, or try again") from error


def _of_the_transport(error: Exception) -> bool:
    """Whether an error is of the HTTP library below openai, whose name depends on openai's version: httpx, httpx2."""
    return type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore"))


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)[:500]


def load_remote_model(
    url: str,
    model: str | None = None,
    *,
    sampling: Sampling | None = None,
    keys: Sequence[str] = _KEYS,
    option: str = "--model",
    timeout_s: float = _TIMEOUT_S,
    note: Callable[[str], None] = lambda _: None,
) -> RemoteModel:
    """Reach a server, and choose one of its models.

    A server that lists none (status 404) is taken at its word where `model` is named.

    Args:
        url: where its interface begins, such as `http://127.0.0.1:8000/v1`.
        model: one of its models; None for the only one it has.
        keys: environment variables that may hold the key; the first one that is set.
        option: what the user names the model with.
        timeout_s: seconds for one request.
        note: gets what the user should know.
    Raises:
        BurnishError: nobody is there, the key is refused, or the model is not one of the server's.
        MissingExtraError: the openai package is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError("talking to a served model", packages=["openai"]) from error
    key = from_environment(keys)
    if key and url.startswith("http://") and urlsplit(url).hostname not in _LOCAL:
        note("the key and the conversation go to this address without encryption (http, not https)")
    client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=1)
    with told(url, model or "", keys, option):
        try:
            names = [each.id for each in client.models.list().data]
        except openai.NotFoundError:
            if model is None:
                raise
            names = []
    if model is None and len(names) != 1:
        shown = ", ".join(names[:20]) or "none"
        raise BurnishError(
            "the server has several models" if names else "the server has no model",
            at=url,
            fix=f"choose one with {option}: {shown}",
        )
    if model is not None and names and model not in names:
        raise BurnishError(f"the server has no model '{model}'", at=option, fix=did_you_mean(model, names))
    return RemoteModel(client, model or names[0], url, sampling or Sampling())
