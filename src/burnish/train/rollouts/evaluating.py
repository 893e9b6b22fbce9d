"""The reward of answers to held-out prompts: sampled as in training, from the same seeds at each evaluation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from burnish.batch.store import Selection
from burnish.train.engine import Engine
from burnish.train.figures import Sums, add, means, merge_over_ranks
from burnish.train.rollouts.answers import Answer
from burnish.train.rollouts.asking import ask, counted, tell
from burnish.train.rollouts.rewarding import Judge
from burnish.train.rollouts.sample import Policy

_AT_A_TIME = 4  # times the slots of the sampler: so that a long evaluation shows how far it is


class HeldOut:
    """Sets of prompts that are never learnt from, and what judges the answers to them.

    Args:
        sets: name → prompts; a single set has the name "".
        copies: answers to each prompt.
        seed: of the answers. A prompt's answers come from the same random numbers at each evaluation, so that two
            evaluations differ by the policy alone.
    """

    def __init__(
        self, policy: Policy, judge: Judge, sets: Mapping[str, Selection], engine: Engine, *, copies: int, seed: int
    ) -> None:
        self.policy, self.judge, self.sets, self.engine = policy, judge, sets, engine
        self.copies, self.seed = copies, seed

    def evaluate(self, tick: Callable[[int, int], None] = lambda *_: None) -> dict[str, float]:
        """Answer every prompt and have the answers judged; the ranks share the prompts.

        Args:
            tick: told (prompts done, prompts in all) on the way, by this rank.
        Returns:
            eval_reward: the mean over answers that have a reward, NaN where none has one. eval_rewards/NAME: the mean
            of each function. eval_answers, eval_unscored: how many answers, and the share without a reward.
            eval_reward_std: the deviation over the answers. eval_completions/…: their lengths. Where sets have names,
            eval_NAME_reward and so on for each.
        """
        results: dict[str, float] = {}
        everything: Sums = {}
        done, total = 0, sum(map(len, self.sets.values()))
        notes: list[str] = []
        with self.policy.ready():
            for name, prompts in self.sets.items():
                sums: Sums = {}
                mine = range(self.engine.process_index, len(prompts), self.engine.num_processes)
                for start in range(0, len(mine), _AT_A_TIME * self.policy.slots):
                    part = mine[start : start + _AT_A_TIME * self.policy.slots]
                    seeds = [self._seed(name, number) for number in part]
                    answers, said = ask(
                        self.policy, self.judge, prompts, part, places=part, seeds=seeds, copies=self.copies
                    )
                    add(sums, self._counted(answers))
                    notes += said
                    tick(min(done + (start + len(part)) * self.engine.num_processes, total), total)
                done += len(prompts)
                sums = merge_over_ranks(sums, self.engine)
                add(everything, sums)
                if name:
                    results |= {f"eval_{name}_{figure}": value for figure, value in _figures(sums).items()}
        tell(notes, "of held-out prompts", "held out: ")
        return {f"eval_{figure}": value for figure, value in _figures(everything).items()} | results

    def _seed(self, name: str, number: int) -> int:
        return random.Random(f"{self.seed}/held out/{name}/{number}").getrandbits(48)

    def _counted(self, answers: Sequence[Answer]) -> Sums:
        """Sums and counts of some answers."""
        given = [one.reward for one in answers if one.reward is not None]
        return {
            "reward": [sum(given), float(len(given))],
            "squares": [sum(value * value for value in given), float(len(given))],
            "unscored": [float(len(answers) - len(given)), float(len(answers))],
            **counted(self.judge, answers),
        }


def _figures(sums: Sums) -> dict[str, float]:
    """Means of what was counted, with how many answers there were and how far their rewards lie apart."""
    found = means({name: pair for name, pair in sums.items() if name != "squares"})
    total, count = sums["reward"]
    found["answers"] = sums["unscored"][1]
    found.setdefault("reward", math.nan)
    if count > 1:
        spread = sums["squares"][0] - total * total / count
        found["reward_std"] = math.sqrt(max(spread, 0.0) / (count - 1))
    return found
