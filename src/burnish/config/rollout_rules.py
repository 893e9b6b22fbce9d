"""Rules over the settings of ppo, grpo and rloo; `rules.py` and `remarks.py` put them behind their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from burnish.config.draft import Draft, Finding

ROLLOUT = ("ppo", "grpo", "rloo")
"""Stages that learn from answers of their own."""

USED_BY: dict[str, tuple[str, ...]] = {
    "reward_funcs": ROLLOUT,
    "reward_weights": ROLLOUT,
    "reward_timeout": ROLLOUT,
}
"""Setting → the stages that read it."""


def one_weight_a_reward(draft: Draft) -> Iterator[Finding]:
    weights, rewards = draft["reward_weights"], draft["reward_funcs"]
    if not weights:
        return
    if len(weights) != len(rewards):
        what = f"there are {len(rewards)} reward_funcs and {len(weights)} reward_weights"
        yield Finding(("reward_weights", "reward_funcs"), what, "write one weight a reward, in the same order")
    elif any(not isinstance(reward, str) and "weight" in reward for reward in rewards):
        what = "a reward has a weight of its own, and reward_weights are set"
        yield Finding(("reward_weights", "reward_funcs"), what, "keep one of them")


ROLLOUT_RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (one_weight_a_reward,)
