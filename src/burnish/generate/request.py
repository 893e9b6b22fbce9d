"""What is asked of a sampler and what comes back: plain values, shared by chat, predict, rollouts and serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Ending = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Greedy unless `do_sample`.

    `temperature` divides the logits; `top_k` (0: off) and `top_p` (1: off) cut the tail; `repetition_penalty`
    (1: off) divides the positive logits of tokens that have occurred and multiplies the negative ones. With a `seed`
    a completion is the same whatever else is in the batch.
    """

    max_new_tokens: int = 1024
    max_length: int | None = None  # of prompt and answer together
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue, `copies` times; the copies share the prompt's keys and values.

    `adapter` names the adapter that answers ("": the model as it stands). `top_logprobs` asks for that many
    alternatives with each token. `shape_logits` gets the ids sampled so far and the logits [V] in float32, and returns
    logits [V]: a grammar can forbid tokens with -inf.
    """

    prompt: tuple[int, ...]
    stop_ids: frozenset[int]
    sampling: Sampling = field(default_factory=Sampling)
    copies: int = 1
    adapter: str = ""
    top_logprobs: int = 0
    shape_logits: Callable[[list[int], Tensor], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One sampled token of one copy of a request, or its end (then `token` may be None).

    A stop token comes as `token` together with `ending` "stop". `logprob` is in nats, under the model at the
    request's temperature, before top-k and top-p cut anything; `top` holds (token, logprob), the likeliest first.
    """

    request: int
    copy: int
    token: int | None
    logprob: float = 0.0
    ending: Ending | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated after one prompt.

    `ids` are without the stop token and `finished` tells whether one came: `stop_id`. `logprobs` has one number for
    each of `sampled`, in nats, under the model at the request's temperature.
    """

    ids: list[int]
    finished: bool
    stop_id: int | None = None
    logprobs: list[float] = field(default_factory=list)

    @property
    def sampled(self) -> list[int]:
        """Every token that was sampled, the stop token with it: what a policy is trained on."""
        return self.ids if self.stop_id is None else [*self.ids, self.stop_id]
