"""Answers as they were sampled, and the buffer of tensors that optimizer steps learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from burnish.batch.collate import Layout, RolloutBatch, collate
from burnish.template import Example
from burnish.template.example import IGNORED
from burnish.train.rollouts.methods import Learnt


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer.

    `place`: which prompt drawn in this run it answers, counted from 0; `number`: that prompt's among the examples.
    `ids` are all sampled tokens, the stop token with them, and `logprobs` what the sampler gave each, in nats.
    `values`: by reward function, `reward` in all; None where nothing could be given.
    """

    place: int
    number: int
    prompt: list[int]
    ids: list[int]
    logprobs: list[float]
    finished: bool
    text: str
    values: dict[str, float | None]
    reward: float | None

    def example(self, *, trained: bool = True) -> Example:
        """The answer behind its prompt, its own tokens trained."""
        labels = self.ids if trained else [IGNORED] * len(self.ids)
        return Example([*self.prompt, *self.ids], [IGNORED] * len(self.prompt) + labels)


@dataclass(frozen=True)
class Buffer:
    """The R answers of a rollout, M sampled tokens in all, one after the other.

    `ids` [T] int64: prompt and answer of each; `prompts`, `lengths` [R] int64: the tokens of either. `used` [R] bool:
    which answers are learnt from. `advantages`: [R] float32, or [M] where each token has its own. The others are [M]
    float32, where the stage needs them: see `RolloutBatch`.
    """

    ids: Tensor
    prompts: Tensor
    lengths: Tensor
    used: Tensor
    advantages: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    old_values: Tensor | None = None
    returns: Tensor | None = None

    @classmethod
    def of(cls, answers: Sequence[Answer], used: Tensor, said: dict[str, Tensor | None], learnt: Learnt) -> Buffer:
        """The buffer of answers; `said` holds what the models say of their tokens."""
        return cls(
            torch.tensor([token for answer in answers for token in (*answer.prompt, *answer.ids)], dtype=torch.int64),
            torch.tensor([len(answer.prompt) for answer in answers], dtype=torch.int64),
            torch.tensor([len(answer.ids) for answer in answers], dtype=torch.int64),
            used,
            learnt.advantages,
            returns=learnt.returns,
            **said,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, to be saved."""
        named = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> Buffer:
        """What `tensors` gave."""
        return cls(**named)

    def batch(self, numbers: Sequence[int], layout: Layout, units: int | None) -> RolloutBatch:
        """Some of the answers as a batch.

        Args:
            numbers: places in the buffer.
            units: what each answer counts for in the loss; None where its tokens do.
        """
        places = torch.tensor(list(numbers), dtype=torch.int64)
        ends = self.lengths.cumsum(0)
        tokens = torch.cat([torch.arange(int(ends[n] - self.lengths[n]), int(ends[n])) for n in numbers])
        plain = collate([self.example(number) for number in numbers], numbers, layout)
        of_tokens = ("old_logprobs", "ref_logprobs", "old_values", "returns")
        kept = {name: getattr(self, name) for name in of_tokens}
        parts: dict[str, Any] = {name: value[tokens] for name, value in kept.items() if value is not None}
        parts["advantages"] = self.advantages[tokens if self.each_token else places]
        values = {part.name: getattr(plain, part.name) for part in fields(plain)}
        return RolloutBatch(**{**values, **parts, "units": None if units is None else units * len(numbers)})

    @property
    def each_token(self) -> bool:
        """Whether tokens have advantages of their own."""
        return self.returns is not None

    def example(self, number: int) -> Example:
        """One answer behind its prompt."""
        whole = self.prompts + self.lengths
        start = int(whole[:number].sum())
        ids = self.ids[start : start + int(whole[number])].tolist()
        first = int(self.prompts[number])
        return Example(ids, [IGNORED] * first + ids[first:])
