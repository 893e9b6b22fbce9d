"""Which prompts a rollout draws, and which of its answers each optimizer step learns from."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from burnish.batch.plan import BatchPlan, SingleRows


@dataclass(frozen=True)
class RolloutPlan:
    """Rollouts of a fixed number of answers, each gone over several times in steps of a fixed size.

    Args:
        prompts: in the data; 0 for a stream, which says itself what it draws and how far it is.
        copies: answers to each prompt of a rollout.
        answers: of a rollout, over all ranks: a multiple of `copies` and of a step's.
        passes: how often a rollout's answers are gone over.
        batch_rows, accumulation, ranks, seed, shuffle: as in `BatchPlan`; a row is an answer.
    """

    prompts: int
    copies: int
    answers: int
    passes: int
    batch_rows: int
    accumulation: int
    ranks: int = 1
    seed: int = 42
    shuffle: bool = True

    @property
    def answers_a_step(self) -> int:
        return self.batch_rows * self.accumulation * self.ranks

    @property
    def prompts_a_rollout(self) -> int:
        return self.answers // self.copies

    @property
    def steps_a_pass(self) -> int:
        return self.answers // self.answers_a_step

    @property
    def steps_a_rollout(self) -> int:
        """Optimizer steps between two rollouts."""
        return self.steps_a_pass * self.passes

    def epoch_at(self, step: int) -> float:
        """Passes over the prompts after so many steps, those not counted that `dynamic_sample` drew besides."""
        return step / self.steps_a_rollout * self.prompts_a_rollout / self.prompts

    def steps_of(self, epochs: float) -> int:
        """Optimizer steps in which every prompt is drawn so often; the last rollout is whole."""
        return max(1, math.ceil(self.prompts * epochs / self.prompts_a_rollout)) * self.steps_a_rollout

    def prompt(self, place: int) -> int:
        """The example that is drawn as the run's prompt number `place`; each epoch has an order of its own."""
        epoch, within = divmod(place, self.prompts)
        return self._epochs._order_of(epoch)[within]

    def seed_of(self, place: int) -> int:
        """The seed of the answers to prompt number `place`, whichever rank samples them."""
        return random.Random(f"{self.seed}/answers/{place}").getrandbits(48)

    def step(self, step: int, rank: int, used: Sequence[bool]) -> list[list[int]]:
        """The micro-batches of a step, as numbers of answers in the rollout; unused answers are left out.

        Where a rollout is more than one step, each pass over it has an order of its own.
        """
        rollout, within = divmod(step, self.steps_a_rollout)
        turn, part = divmod(within, self.steps_a_pass)
        order = list(range(self.answers))
        if self.steps_a_pass > 1:
            random.Random(f"{self.seed}/pass/{rollout}/{turn}").shuffle(order)
        mine = order[part * self.answers_a_step : (part + 1) * self.answers_a_step]
        micro = [mine[start : start + self.batch_rows] for start in range(0, len(mine), self.batch_rows)]
        return [[number for number in each if used[number]] for each in micro[rank :: self.ranks]]

    @cached_property
    def _epochs(self) -> BatchPlan:
        return BatchPlan(SingleRows(self.prompts), 1, 1, seed=self.seed, shuffle=self.shuffle)
