"""The loss on held-out data, and what follows from it: which checkpoint is the best, and when to stop early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.batch.collate import Batch
from burnish.batch.plan import BatchPlan
from burnish.errors import BurnishError
from burnish.train.figures import Ranking, Sums, add, means, merge_over_ranks, read
from burnish.train.state import Progress

MakeBatch = Callable[[Sequence[int]], Batch]
EvalSets = Mapping[str, tuple[BatchPlan, MakeBatch]]
Evaluate = Callable[[Callable[[int, int], None]], dict[str, float]]
"""From what is told how far it is, (done, all), to results by name."""


def evaluate(
    accelerator: Any, module: Any, sets: EvalSets, tick: Callable[[int, int], None] = lambda *_: None
) -> dict[str, float]:
    """The mean loss of each set, every token counted once however the ranks share the work.

    Args:
        sets: name → (plan, sample numbers → Batch); a single set has the name "".
        tick: told (batches done, batches in all) on the way.
    Returns:
        eval_loss over all sets, eval_NAME_loss for each named one, and the figures of the stage in the same way. Where
        the stage ranks single samples (kto), also how well their rewards tell the better ones from the worse.
    """
    total, done = sum(plan.steps_an_epoch for plan, _ in sets.values()), 0
    results: dict[str, float] = {}
    everything: Sums = {}
    everyone = Ranking()
    module.eval()
    try:
        for name, (plan, make) in sets.items():
            sums: Sums = {}
            ranking = Ranking()
            for step in range(plan.steps_an_epoch):
                for numbers in plan.step(step, accelerator.process_index):
                    with torch.no_grad():  # a rank without rows runs a stand-in: shards are gathered from all ranks
                        loss = module(make(numbers or plan.stand_in).to(accelerator.device))
                    if numbers:
                        add(sums, read(loss))
                        ranking.add(loss)
                done += 1
                tick(done, total)
            sums, ranking = merge_over_ranks(sums, accelerator), ranking.over_ranks(accelerator)
            add(everything, sums)
            everyone.extend(ranking)
            if name:
                results |= {f"eval_{name}_{figure}": value for figure, value in _found(sums, ranking).items()}
    finally:
        module.train()
    return {f"eval_{figure}": value for figure, value in _found(everything, everyone).items()} | results


def _found(sums: Sums, ranking: Ranking) -> dict[str, float]:
    return means(sums) | ranking.figures()


@dataclass(frozen=True)
class Best:
    """How evaluations are judged.

    `metric`: a name among the results, such as eval_loss. `patience`: evaluations in a row without a better one after
    which the run ends; 0 never ends it. `saves`: whether each better one is kept as a checkpoint.
    """

    metric: str = "eval_loss"
    greater_is_better: bool = False
    patience: int = 0
    saves: bool = False

    def judge(self, results: Mapping[str, float], progress: Progress) -> bool:
        """Whether the results are the best so far; remembers it in `progress`.

        Raises:
            BurnishError: the metric is not among the results.
        """
        if self.metric not in results:
            raise BurnishError(
                f"the evaluation gives no '{self.metric}'",
                at="metric_for_best_model",
                fix=f"choose one of: {', '.join(results)}",
            )
        value, best = results[self.metric], progress.best_value
        better = not math.isnan(value) and (best is None or (value > best if self.greater_is_better else value < best))
        if better:
            progress.best_value, progress.best_step, progress.worse_evaluations = value, progress.step, 0
        else:
            progress.worse_evaluations += 1
        return better

    def patience_is_over(self, progress: Progress) -> str | None:
        """The sentence that says why the run ends here; None where it goes on."""
        if not self.patience or progress.worse_evaluations < self.patience:
            return None
        best = "none was a number"
        if progress.best_value is not None:
            best = f"the best was {progress.best_value:.4f} at step {progress.best_step}"
        return f"{self.metric} has not improved in {progress.worse_evaluations} evaluations; {best}"
