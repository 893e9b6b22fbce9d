"""Pairs of answers to a prompt as one batch: two whole documents, or one row in which the prompt stands only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from burnish.batch.collate import Batch, Layout, collate, targets
from burnish.template.example import IGNORED, Example

WORTH_SHARING = 0.1
"""The share of a batch's tokens that must be prompts which stand there twice, for computing them once to pay."""


def collate_pairs(examples: Sequence[Example], samples: Sequence[int], layout: Layout) -> Batch:
    """Chosen and rejected examples in turn, as documents of one batch whose loss counts pairs.

    It has marks only where there are margins. Where the layout allows it, and prompts are long enough for it to pay,
    the rejected answer stands without its prompt behind the chosen document, and reads the prompt there.
    """
    marks = [example.mark for example in examples]
    prompts = shared_prompts(examples) if layout.packed and layout.shares else None
    return replace(
        collate(examples, samples, layout) if prompts is None else collate_shared(examples, samples, prompts),
        units=len(examples) // 2,
        marks=torch.tensor(marks, dtype=torch.float32) if min(marks, default=0.0) < 0 else None,
    )


def shared_prompts(examples: Sequence[Example], worth: float = WORTH_SHARING) -> tuple[int, ...] | None:
    """The tokens of each pair's prompt, which stand before both answers; None where sharing them would not pay.

    Args:
        worth: the least share of the tokens that must fall away.
    """
    found = [_shared(chosen, rejected) for chosen, rejected in zip(examples[0::2], examples[1::2], strict=True)]
    total = sum(len(example.input_ids) for example in examples)
    return tuple(found) if all(found) and sum(found) >= worth * total else None


def _shared(chosen: Example, rejected: Example) -> int:
    """How many tokens stand before the first trained one of both; 0 where they are not the same."""
    first, second = _first_trained(chosen), _first_trained(rejected)
    same = first == second and chosen.input_ids[:first] == rejected.input_ids[:first]
    return first if same else 0


def _first_trained(example: Example) -> int:
    return next((place for place, label in enumerate(example.labels) if label != IGNORED), 0)


def collate_shared(examples: Sequence[Example], samples: Sequence[int], prompts: Sequence[int]) -> Batch:
    """One row of [1, T]: for each pair prompt, chosen and rejected answer; positions of both go on from the prompt.

    The first token of a rejected answer is predicted where the prompt ends, as that of the chosen one is.
    """
    ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    starts: list[int] = []  # where a document would begin if it were whole and ended where it ends
    for place, example in enumerate(examples):
        left_out = prompts[place // 2] if place % 2 else 0
        starts.append(len(ids) - left_out)
        ids += example.input_ids[left_out:]
        positions += range(left_out, len(example.input_ids))
        lengths.append(len(example.input_ids) - left_out)
    found = targets(examples, starts)
    for place in range(1, len(examples), 2):
        of_first = (found["loss_documents"] == place).nonzero()[0]
        found["loss_positions"][of_first] = starts[place - 1] + prompts[place // 2] - 1
    return Batch(
        input_ids=torch.tensor([ids], dtype=torch.int64),
        position_ids=torch.tensor([positions], dtype=torch.int64),
        attention_mask=None,
        document_lengths=tuple(lengths),
        samples=tuple(samples),
        shared_prompts=tuple(prompts),
        **found,
    )
