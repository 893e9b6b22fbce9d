"""Answers to some prompts with their rewards, counted and told: what rollouts and held-out evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from burnish import log
from burnish.batch.prompts import from_json
from burnish.data.records import Prompt
from burnish.rewards import RewardSample
from burnish.train.figures import Sums
from burnish.train.rollouts.answers import Answer
from burnish.train.rollouts.prompts import Prompts
from burnish.train.rollouts.rewarding import Judge
from burnish.train.rollouts.sample import Policy

NAMED = 5
"""Notes and rows that are told one by one; of the others only how many there are."""


def prompt_of(prompts: Prompts, number: int) -> Prompt:
    """The record that a prompt was made from, with its reference."""
    return from_json(prompts.record(number))


def where(prompts: Prompts, number: int) -> str:
    """Dataset and row of a prompt, for people."""
    dataset, _, row = prompts.origin(number)
    return f"{dataset}, row {row}"


def ask(
    policy: Policy,
    judge: Judge,
    prompts: Prompts,
    numbers: Sequence[int],
    *,
    places: Sequence[int],
    seeds: Sequence[int],
    copies: int,
) -> tuple[list[Answer], list[str]]:
    """Sample answers in this process and have them judged.

    Args:
        numbers: the prompts, by their numbers among the examples.
        places, seeds: of each; an answer depends on its prompt, its seed and its copy alone.
        copies: answers to each prompt; they stay side by side.
    Returns:
        The answers with their rewards, and notes about rewards that did not come.
    """
    ids = [prompts[number].input_ids for number in numbers]
    found = policy.answers(ids, seeds, copies)
    answers = [
        Answer(
            *(place, number, prompt, one.sampled, one.logprobs, one.finished),
            *(policy.template.decode(one.ids), {}, None),
        )
        for place, number, prompt, group in zip(places, numbers, ids, found, strict=True)
        for one in group
    ]
    return _judged(judge, prompts, answers)


def _judged(judge: Judge, prompts: Prompts, answers: Sequence[Answer]) -> tuple[list[Answer], list[str]]:
    """Answers with their rewards, and what went wrong with some."""
    if not answers:
        return [], []
    samples = []
    for one in answers:
        dataset, _, row = prompts.origin(one.number)
        asked = prompt_of(prompts, one.number)
        samples.append(
            RewardSample(asked.prompt, one.text, asked.reference, dataset, row, tuple(one.ids), one.finished)
        )
    scores = judge.score(samples)
    return [
        replace(one, values=values, reward=total)
        for one, values, total in zip(answers, scores.values, scores.totals, strict=True)
    ], list(scores.notes)


def counted(judge: Judge, answers: Sequence[Answer]) -> Sums:
    """Sums and counts of some answers: rewards by function, lengths."""
    found: Sums = {
        "completions/mean_length": [float(sum(len(one.ids) for one in answers)), float(len(answers))],
        "completions/clipped_ratio": [float(sum(not one.finished for one in answers)), float(len(answers))],
    }
    for name in judge.names:
        given = [value for one in answers if (value := one.values.get(name)) is not None]
        found[f"rewards/{name}"] = [sum(given), float(len(given))]
    return found


def tell(notes: Sequence[str], of: str, before: str = "") -> None:
    """Say the first notes about rewards, each with some words before it, and how many more there are."""
    for note in notes[:NAMED]:
        log.note(before + note)
    if len(notes) > NAMED:
        log.note(f"{len(notes) - NAMED} more notes about rewards {of}")
