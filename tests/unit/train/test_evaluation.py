"""Which evaluation is the best, when the run ends early, and how figures are added up."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from burnish.batch.plan import BatchPlan, SingleRows
from burnish.errors import BurnishError
from burnish.losses import LossSum, Ranked
from burnish.train.evaluation import Best, evaluate
from burnish.train.figures import add, means, read
from burnish.train.state import Progress


def judged(best, values):
    progress = Progress()
    found = []
    for step, value in enumerate(values, 1):
        progress.step = step
        found.append(best.judge({"eval_loss": value}, progress))
    return found, progress


def test_the_lowest_loss_is_the_best():
    found, progress = judged(Best(), [3.0, 2.0, 2.0, math.nan, 2.5, 1.0])
    assert found == [True, True, False, False, False, True]
    assert (progress.best_value, progress.best_step, progress.worse_evaluations) == (1.0, 6, 0)


def test_or_the_greatest():
    found, progress = judged(Best(greater_is_better=True), [0.5, 0.4, 0.6])
    assert found == [True, False, True]
    assert progress.best_step == 3


def test_patience_counts_evaluations_in_a_row():
    best = Best(patience=2)
    _, progress = judged(best, [3.0, 3.5, 2.9, 3.0])
    assert best.patience_is_over(progress) is None
    _, progress = judged(best, [3.0, 3.5, 2.9, 3.0, 2.9])
    assert best.patience_is_over(progress) == (
        "eval_loss has not improved in 2 evaluations; the best was 2.9000 at step 3"
    )
    _, progress = judged(Best(), [1.0] * 50)
    assert Best().patience_is_over(progress) is None


def test_a_metric_that_is_not_there_names_those_that_are():
    with pytest.raises(BurnishError, match=r"gives no 'eval_bleu'[\s\S]*eval_loss, eval_accuracy"):
        Best("eval_bleu").judge({"eval_loss": 1.0, "eval_accuracy": 0.5}, Progress())


def test_figures_are_sums_until_they_are_shown():
    one = LossSum(torch.tensor(6.0), torch.tensor(2.0), {"hits": (torch.tensor(1), torch.tensor(2))})
    other = LossSum(torch.tensor(1.0), torch.tensor(5.0), {"none": (torch.tensor(0.0), torch.tensor(0.0))})
    sums = read(one)
    add(sums, read(other))
    assert sums == {"loss": [7.0, 7.0], "hits": [1.0, 2.0], "none": [0.0, 0.0]}
    assert means(sums) == {"hits": 0.5, "loss": 1.0}


def test_a_rank_without_rows_goes_through_with_a_whole_pair_that_does_not_count():
    asked = []

    class Counted(torch.nn.Module):
        def forward(self, numbers):
            asked.append(numbers)
            return LossSum(torch.tensor(float(sum(numbers))), torch.tensor(float(len(numbers))))

    def make(numbers):
        return SimpleNamespace(to=lambda _: list(numbers))

    rank_1 = SimpleNamespace(process_index=1, num_processes=1, device="cpu")
    plan = BatchPlan(SingleRows(3, 2), 1, 1, ranks=2, shuffle=False)  # pairs 0, 1 and 2: rank 1 has only pair 1
    results = evaluate(rank_1, Counted(), {"": (plan, make)})
    assert asked == [[2, 3], [0, 1]]
    assert results == {"eval_loss": 2.5}


def test_pairs_are_ranked_over_all_batches_of_all_sets():
    class Ranks(torch.nn.Module):
        def forward(self, samples):
            values, better = (torch.tensor(part) for part in zip(*samples, strict=True))
            return LossSum(values.sum(), torch.tensor(1.0), ranked=Ranked(values, better))

    alone = SimpleNamespace(process_index=0, num_processes=1, device="cpu")
    liked = [(3.0, True), (2.0, True)]
    mixed = [(1.0, False), (0.5, True), (2.5, False)]  # 0.5 lies below both others
    sets = {
        name: (
            BatchPlan(SingleRows(len(samples), 1), 1, 1, shuffle=False),
            lambda numbers, of=samples: SimpleNamespace(to=lambda _: [of[number] for number in numbers]),
        )
        for name, samples in (("liked", liked), ("mixed", mixed))
    }
    results = evaluate(alone, Ranks(), sets)
    # 3 lies above 1 and 2.5, 2 above 1 alone, 0.5 above none.
    assert results["eval_rewards/accuracies"] == 0.5
    assert results["eval_mixed_rewards/accuracies"] == 0.0
    assert "eval_liked_rewards/accuracies" not in results  # there is no undesirable answer to compare with
