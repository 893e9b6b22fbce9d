"""Two models' answers to the same questions, laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Number
from typing import Any

from burnish.errors import BurnishError
from burnish.evaluate.harness import Outcome, Reply
from burnish.evaluate.paired import Paired, compare_aggregates, compare_values, verdict


@dataclass(frozen=True)
class Comparison:
    """One metric of one task. `replies` and `scores` are (old, new) for each question, in its order."""

    task: str
    key: str  # metric,filter as in eval.json
    found: Paired
    replies: tuple[tuple[Reply, Reply], ...]
    scores: tuple[tuple[float, float], ...]
    regression: bool = False

    @property
    def verdict(self) -> str:
        return verdict(self.found)

    def outcome(self, place: int) -> str:
        """won, lost or tied: how the new model did on a question."""
        old, new = self.scores[place]
        if old == new:
            return "tied"
        return "won" if (new > old) == self.found.higher_is_better else "lost"


def compare_outcomes(
    old: Outcome,
    new: Outcome,
    aggregations: Mapping[str, Mapping[str, Callable[..., float]]],
    *,
    regression: Sequence[str] = (),
) -> tuple[list[Comparison], list[str]]:
    """Compare two models question by question.

    Args:
        aggregations: task → metric → what makes its figure from the values of all questions.
        regression: tasks that hold what the model could do before.
    Returns:
        A comparison of each metric and filter, and what could not be compared and why.
    Raises:
        BurnishError: the models were not asked the same questions.
    """
    before = {(reply.task, reply.filter, reply.number): reply for reply in old.replies}
    pairs: dict[tuple[str, str], list[tuple[Reply, Reply]]] = {}
    for reply in new.replies:
        other = before.get((reply.task, reply.filter, reply.number))
        if other is None or other.fingerprint != reply.fingerprint:
            raise BurnishError("the two models were not asked the same questions", at=f"{reply.task}, {reply.number}")
        pairs.setdefault((reply.task, reply.filter), []).append((other, reply))
    done, left = [], []
    for task, figures in new.tasks.items():
        for key, figure in figures.items():
            metric, _, name = key.partition(",")
            both = sorted(pairs.get((task, name), ()), key=lambda pair: pair[1].number)
            both = [pair for pair in both if all(metric in reply.values for reply in pair)]
            if not both:
                left.append(f"{task} {key}: there is no value of single questions")
                continue
            values = [[reply.values[metric] for reply in side] for side in zip(*both, strict=True)]
            aggregate = aggregations.get(task, {}).get(metric)
            if all(isinstance(value, Number) for side in values for value in side):
                old_scores, new_scores = ([float(value) for value in side] for side in values)
                found = compare_values(old_scores, new_scores, higher_is_better=figure.higher_is_better)
            elif aggregate and all(_is_weighed(value) for side in values for value in side):
                found = compare_aggregates(values[0], values[1], aggregate, higher_is_better=figure.higher_is_better)
                old_scores, new_scores = ([float(aggregate([value])) for value in side] for side in values)
            else:
                left.append(f"{task} {key}: its questions have no numbers of their own")
                continue
            scores = tuple(zip(old_scores, new_scores, strict=True))
            done.append(Comparison(task, key, found, tuple(both), scores, task in regression))
    return done, left


def comparison_json(done: Sequence[Comparison], model: str, left: Sequence[str]) -> dict[str, Any]:
    """What eval.json says of a comparison: `compared_with`."""
    tasks: dict[str, dict[str, Any]] = {}
    for each in done:
        entry = {**asdict(each.found), "verdict": each.verdict, "regression": each.regression}
        tasks.setdefault(each.task, {})[each.key] = entry
    return {"model": model, "tasks": tasks, "not_compared": list(left)}


def comparison_rows(done: Sequence[Comparison]) -> list[list[str]]:
    """A table: task, filter, metric, old, new, wins, losses, ties, p; its head first."""
    rows = [["task", "filter", "metric", "before", "after", "won", "lost", "tied", "p"]]
    for each in done:
        metric, _, name = each.key.partition(",")
        found = each.found
        rows.append([
            each.task, name, metric, f"{found.old:.4f}", f"{found.new:.4f}", str(found.wins), str(found.losses),
            str(found.ties), "" if found.p is None else f"{found.p:.2g}",
        ])  # fmt: skip
    return rows


def worse_than(done: Sequence[Comparison], margin: float) -> list[Comparison]:
    """The comparisons in which the new model's figure is worse than the old one's by more than `margin`."""
    return [each for each in done if each.found.gain < -margin]


def _is_weighed(value: Any) -> bool:
    """Whether a value is a number with its weight, as perplexities have."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(each, Number) for each in value)
