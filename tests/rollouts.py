"""Small prompts and rewards for tests of stages that learn from their own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.judged import write

REWARDS = '''
def even(sample):
    """The share of even tokens: dense, and different for almost any two answers."""
    return sum(token % 2 == 0 for token in sample.token_ids) / len(sample.token_ids)


def letter_a(sample):
    """The share of tokens that are the letter a."""
    return sample.completion.count("a") / len(sample.token_ids)


def picky(samples):
    """Nothing for the answers to some prompts, NaN for others."""
    found = [even(one) for one in samples]
    return [None if one.row % 4 == 1 else float("nan") if one.row % 4 == 2 else value
            for one, value in zip(samples, found)]


def never(samples):
    return [None] * len(samples)


def flat(samples):
    return [1.0 if one.row % 2 else sum(token % 2 == 0 for token in one.token_ids) for one in samples]
'''

COMMON: dict[str, Any] = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
}
"""Settings of a small run; two prompts with four answers each make a step of grpo and rloo."""


def prompt_file(folder: Path, count: int = 10) -> Path:
    """Prompts of unequal length, each with the number it speaks of as its answer."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Say the number {number} {'please ' * (number % 3)}"},
                {"role": "assistant", "content": str(number)},
            ]
        }
        for number in range(count)
    ]
    return write(folder / "prompts.jsonl", rows)


def reward_file(folder: Path) -> Path:
    """The rewards above in a file of their own."""
    path = folder / "rewards_of_tests.py"
    path.write_text(REWARDS, encoding="utf-8")
    return path
