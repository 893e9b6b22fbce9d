"""Numbers beside the loss: sums and counts that are added up over micro-batches, steps and ranks, and divided once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from burnish.losses import LossSum
from burnish.runs.figures import share_in_order

Sums = dict[str, list[float]]
"""Name → [sum, count]; the loss itself has the name `loss`."""


def read(loss: LossSum) -> Sums:
    """A loss and its figures as Python numbers; waits for the device once."""
    names = ["loss", *loss.figures]
    pairs = [(loss.total, loss.count), *loss.figures.values()]
    flat = torch.stack([value.detach().float() for pair in pairs for value in pair]).tolist()
    return {name: flat[2 * place : 2 * place + 2] for place, name in enumerate(names)}


def add(sums: Sums, more: Mapping[str, Sequence[float]]) -> None:
    """Add pairs to pairs of the same name, in place."""
    for name, (total, count) in more.items():
        pair = sums.setdefault(name, [0.0, 0.0])
        pair[0] += total
        pair[1] += count


def means(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The quotient of each pair, by name; names whose count is zero are left out.

    Where rewards of better and worse answers are means over different samples, their difference is added as the margin.
    """
    found = {name: total / count for name, (total, count) in sorted(sums.items()) if count}
    better, worse = found.get("rewards/chosen"), found.get("rewards/rejected")
    if better is not None and worse is not None:
        found.setdefault("rewards/margins", better - worse)
    return found


class Ranking:
    """Values of better and of worse samples, collected over batches and ranks, and how well they tell the two apart."""

    def __init__(self) -> None:
        self.better: list[float] = []
        self.worse: list[float] = []

    def add(self, loss: LossSum) -> None:
        """Take in the samples of a batch, if the loss has ranked them."""
        if loss.ranked is not None:
            for value, better in zip(loss.ranked.values.tolist(), loss.ranked.better.tolist(), strict=True):
                (self.better if better else self.worse).append(value)

    def extend(self, other: Ranking) -> None:
        """Take in all samples of another one."""
        self.better += other.better
        self.worse += other.worse

    def over_ranks(self, accelerator: Any) -> Ranking:
        """The samples of all ranks, on every rank."""
        if accelerator.num_processes == 1:
            return self
        from accelerate.utils import gather_object

        merged = Ranking()
        for one in gather_object([self]):
            merged.extend(one)
        return merged

    def figures(self) -> dict[str, float]:
        """`rewards/accuracies`: over all pairs of a better and a worse sample, the share in the right order, a tie
        being half of one (`share_in_order`); nothing where there is no pair."""
        share = share_in_order(self.better, self.worse)
        return {} if share is None else {"rewards/accuracies": share}


def merge_over_ranks(sums: Sums, accelerator: Any) -> Sums:
    """The sums of all ranks added up, on every rank; ranks may know different names."""
    if accelerator.num_processes == 1:
        return sums
    from accelerate.utils import gather_object

    merged: Sums = {}
    for one in gather_object([sums]):
        add(merged, one)
    return merged
