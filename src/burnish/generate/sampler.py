"""Token ids in, token ids out: many prompts through the engine, and their completions in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

from burnish.errors import ModelError
from burnish.generate.engine import Engine
from burnish.generate.request import Completion, Event, Request, Sampling


class Sampler(Protocol):
    """What makes tokens for requests, a step at a time."""

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        ...

    def submit(self, request: Request) -> int:
        """Queue a request; returns the number that its events carry."""
        ...

    def step(self) -> list[Event]:
        """The tokens that came."""
        ...


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    sampling: Sampling,
    batch_size: int = 8,
    copies: int = 1,
    pad_id: int = 0,
    seeds: Sequence[int] | None = None,
    engine: Sampler | None = None,
    on_token: Callable[[int, int], None] | None = None,
    on_done: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """Continue each prompt until a stop token or the limit.

    With `sampling.seed` a completion depends on its prompt's number, its copy and the seed, not on the batch.

    Args:
        model: a causal language model of transformers; None with an engine that has one of its own.
        prompts: token ids, none empty.
        batch_size: rows at a time; a row that ends makes room for the next prompt.
        copies: completions of each prompt, whose keys and values are computed once.
        engine: what to sample with, in the place of an engine over the model.
        seeds: one a prompt, in the place of `sampling.seed`; a completion then depends on that and its copy alone.
        on_token: called with (number, token id) as tokens come, stop tokens left out.
        on_done: called with (number, completion) as completions are finished.
    Returns:
        `copies` completions a prompt, in the order of the prompts; `number` counts alike: prompt · copies + copy.
    Raises:
        ModelError: an empty prompt, or one that leaves no room in the model's context.
    """
    engine = engine or Engine(model, slots=max(batch_size, copies), pad_id=pad_id)
    requests: dict[int, int] = {}
    # Long prompts first: the last rows to run are then short ones, and padded batches hold like lengths.
    for prompt in sorted(range(len(prompts)), key=lambda place: -len(prompts[place])):
        seed = None if sampling.seed is None else sampling.seed * 1_000_003 + prompt
        seed = seed if seeds is None else seeds[prompt]
        request = Request(tuple(prompts[prompt]), frozenset(stop_ids), replace(sampling, seed=seed), copies)
        try:
            requests[engine.submit(request)] = prompt
        except ModelError as error:
            raise ModelError(error.what, at=f"prompt {prompt}", fix=error.fix) from None
    ids: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    logprobs: list[list[float]] = [[] for _ in ids]
    results: dict[int, Completion] = {}

    def take(event: Event) -> None:
        number = requests[event.request] * copies + event.copy
        stopped = event.ending == "stop"
        if event.token is not None:
            logprobs[number].append(event.logprob)
        if event.token is not None and not stopped:
            ids[number].append(event.token)
            if on_token:
                on_token(number, event.token)
        if event.ending:
            stop_id = event.token if stopped else None
            results[number] = Completion(ids[number], stopped, stop_id, logprobs[number])
            if on_done:
                on_done(number, results[number])

    was_training = model is not None and model.training
    if model is not None:
        model.eval()
    try:
        while engine.busy:
            for event in engine.step():
                take(event)
    finally:
        if model is not None:
            model.train(was_training)
    return [results[number] for number in range(len(ids))]
