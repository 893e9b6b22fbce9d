"""What a judge's replies come to: means, wins and losses with intervals, and how far the judge can be relied on."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from burnish.evaluate.judging.ask import Ask, Side
from burnish.evaluate.judging.replies import Judgement
from burnish.evaluate.paired import FEW, bootstrap_mean, compare_values, mcnemar, verdict

WIN, TIE, LOSS = "win", "tie", "loss"
WORTH = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}

_ALL_ALIKE = 5  # equal grades from which on a judge is doubted

Heard = Mapping[Ask, Judgement]


@dataclass(frozen=True, slots=True)
class Met:
    """How one pair ended by one rubric.

    Attributes:
        outcome: win, tie or loss of the new model; None where an order has no verdict.
        worth: mean over the repeats of 1 for a win, ½ for a tie, 0 for a loss.
        agreed: of each repeat, whether both orders said the same; empty for equal answers.
        firsts: of each verdict that is no tie, whether it chose the answer that stood first.
        outcomes: of each repeat.
    """

    outcome: str | None
    worth: float | None = None
    agreed: tuple[bool, ...] = ()
    firsts: tuple[bool, ...] = ()
    outcomes: tuple[str, ...] = ()


EQUAL = Met(TIE, 0.5)


def grades_of(heard: Heard, rubric: str, side: Side) -> dict[int, list[float]]:
    """Row → its grades, in the order of the repeats; rows that no reply has graded are not there."""
    found: dict[int, list[float]] = defaultdict(list)
    for ask, said in sorted(heard.items(), key=lambda each: each[0].repeat):
        if (ask.kind, ask.rubric, ask.side) == ("score", rubric, side) and said.grade is not None:
            found[ask.number].append(said.grade)
    return dict(found)


def meet(heard: Heard, rubric: str) -> dict[int, Met]:
    """Pair → how it ended; both orders together are one verdict, and where they disagree it is a tie.

    A repeat in which either order has no verdict does not count. With several repeats the mean decides.

    Source: both orders, and a tie where they disagree: MT-Bench, arXiv:2306.05685, section 3.4.
    """
    said: dict[tuple[int, int], dict[Side, str | None]] = defaultdict(dict)
    for ask, each in heard.items():
        if (ask.kind, ask.rubric) == ("better", rubric):
            said[ask.number, ask.repeat][ask.side] = each.choice
    repeats: dict[int, list[dict[Side, str | None]]] = defaultdict(list)
    for (number, _), orders in sorted(said.items()):
        repeats[number].append(orders)
    return {number: _met(each) for number, each in repeats.items()}


def _met(repeats: Sequence[Mapping[Side, str | None]]) -> Met:
    outcomes, agreed, firsts = [], [], []
    for orders in repeats:
        forward, backward = orders.get("new"), orders.get("old")
        if forward is None or backward is None:
            continue
        by_new_first = {"A": WIN, "B": LOSS, "tie": TIE}[forward]
        by_old_first = {"A": LOSS, "B": WIN, "tie": TIE}[backward]
        agreed.append(by_new_first == by_old_first)
        outcomes.append(by_new_first if agreed[-1] else TIE)
        firsts += [choice == "A" for choice in (forward, backward) if choice != "tie"]
    if not outcomes:
        return Met(None)
    worth = math.fsum(WORTH[each] for each in outcomes) / len(outcomes)
    outcome = WIN if worth > 0.5 else LOSS if worth < 0.5 else TIE
    return Met(outcome, worth, tuple(agreed), tuple(firsts), tuple(outcomes))


def grade_figures(heard: Heard, rubric: str, side: Side, asked: int) -> dict[str, Any]:
    """The mean grade of one model with its 95% bootstrap interval over rows.

    Args:
        asked: rows that were to be graded.
    Returns:
        n, not_graded; and where n is above 0: mean, low, high, and the agreement of repeats where there are any.
    """
    grades = grades_of(heard, rubric, side)
    found: dict[str, Any] = {"n": len(grades), "not_graded": asked - len(grades)}
    if not grades:
        return found
    means = [math.fsum(each) / len(each) for each in grades.values()]
    low, high = bootstrap_mean(means)
    found |= {"mean": math.fsum(means) / len(means), "low": low, "high": high}
    repeated = [pair for each in grades.values() for pair in combinations(each, 2)]
    if repeated:
        found["repeats"] = {
            "n": len(repeated),
            "equal": sum(one == other for one, other in repeated) / len(repeated),
            "within_one": sum(abs(one - other) <= 1 for one, other in repeated) / len(repeated),
            "mean_difference": math.fsum(abs(one - other) for one, other in repeated) / len(repeated),
        }
    return found


def grade_difference(heard: Heard, rubric: str) -> dict[str, Any] | None:
    """New minus old over the pairs that have both grades: interval and sign-flip test; None where there are none."""
    new, old = (grades_of(heard, rubric, side) for side in ("new", "old"))
    both = sorted(new.keys() & old.keys())
    if not both:
        return None
    before, after = ([math.fsum(side[each]) / len(side[each]) for each in both] for side in (old, new))
    found = compare_values(before, after)
    return {**asdict(found), "verdict": verdict(found)}


def pair_figures(met: Mapping[int, Met], asked: int) -> dict[str, Any]:
    """Wins, ties and losses with interval and sign test, and what the order of the answers did to the judge.

    Args:
        met: pair → its end.
        asked: pairs that were to be compared.
    Returns:
        n, not_compared, equal_answers; and where n is above 0: wins, ties, losses; win_rate (a tie is half a win) with
        low and high, its 95% bootstrap interval over pairs; p, the exact sign test of wins against losses; orders (n,
        agree, disagree) and consistency, the share that agrees; positions (n: verdicts that are no tie, first: those
        for the answer that stood first) and first_share; verdict; and the agreement of repeats where there are any.
    """
    ended = {number: each for number, each in met.items() if each.outcome is not None}
    found: dict[str, Any] = {"n": len(ended), "not_compared": asked - len(ended)}
    found["equal_answers"] = sum(each is EQUAL for each in ended.values())
    if not ended:
        return found
    counts = Counter(each.outcome for each in ended.values())
    worths = [each.worth for each in ended.values() if each.worth is not None]
    low, high = bootstrap_mean(worths)
    agreed = [each for one in ended.values() for each in one.agreed]
    firsts = [each for one in ended.values() for each in one.firsts]
    found |= {
        "wins": counts[WIN], "ties": counts[TIE], "losses": counts[LOSS],
        "win_rate": math.fsum(worths) / len(worths), "low": low, "high": high,
        "p": mcnemar(counts[WIN], counts[LOSS]), "test": "sign test, exact",
        "orders": {"n": len(agreed), "agree": sum(agreed), "disagree": len(agreed) - sum(agreed)},
        "consistency": sum(agreed) / len(agreed) if agreed else None,
        "positions": {"n": len(firsts), "first": sum(firsts)},
        "first_share": sum(firsts) / len(firsts) if firsts else None,
    }  # fmt: skip
    repeated = [pair for each in ended.values() for pair in combinations(each.outcomes, 2)]
    if repeated:
        found["repeats"] = {"n": len(repeated), "equal": sum(a == b for a, b in repeated) / len(repeated)}
    found["verdict"] = pair_verdict(found)
    return found


def pair_verdict(found: Mapping[str, Any]) -> str:
    """The finding in plain words. Better or worse is said where the interval of the win rate leaves ½ out."""
    span = f"wins {found['win_rate']:.1%} of {found['n']} pairs, ties by half (95% interval {found['low']:.1%} to "
    span += f"{found['high']:.1%})"
    few = f"; {found['n']} pairs are few" if found["n"] < FEW else ""
    if found["low"] <= 0.5 <= found["high"]:
        return f"no difference that this sample can show: {span}{few}"
    return f"{'better' if found['win_rate'] > 0.5 else 'worse'}: {span}{few}"


def grade_doubts(heard: Heard, rubric: str) -> list[str]:
    """What of grades makes their judge doubtful, in words."""
    said = []
    grades = [each.grade for ask, each in heard.items() if (ask.kind, ask.rubric) == ("score", rubric) and each.grade]
    if len(grades) >= _ALL_ALIKE and len(set(grades)) == 1:
        said.append(f"all {len(grades)} grades are {grades[0]:g}: this judge tells no answers apart")
    if 0 < (count := len(grades_of(heard, rubric, "new"))) < FEW:
        said.append(f"{count} graded answers are few: the interval is hardly worth its name")
    return said


def pair_doubts(found: Mapping[str, Any]) -> list[str]:
    """What of a comparison makes its judge doubtful, in words."""
    said = []
    orders, places = (found.get(name) or {"n": 0} for name in ("orders", "positions"))
    if orders["n"] >= FEW and found["consistency"] < 0.6:
        said.append(f"the two orders agree on only {found['consistency']:.0%} of the pairs: this judge mostly guesses")
    if places["n"] >= FEW and mcnemar(places["first"], places["n"] - places["first"]) < 0.01:
        share = found["first_share"]
        said.append(
            f"the judge leans to the {'first' if share > 0.5 else 'second'} answer ({share:.0%} chose the first); both "
            "orders cancel that, at the price of ties"
        )
    return said


def grade_agreement(judged: Mapping[int, float], human: Mapping[int, float]) -> dict[str, Any]:
    """How near a judge's grades come to those of people, over the rows that have both.

    Returns:
        n, within_one, mean_difference (judge minus human), spearman: the rank correlation with ties, None where either
        gives all rows the same grade.
    Source: C. Spearman, American Journal of Psychology 15 (1904), 72-101.
    """
    both = sorted(judged.keys() & human.keys())
    if not both:
        return {"n": 0}
    mine, theirs = ([side[each] for each in both] for side in (judged, human))
    differences = [one - other for one, other in zip(mine, theirs, strict=True)]
    return {
        "n": len(both),
        "within_one": sum(abs(each) <= 1 for each in differences) / len(both),
        "mean_difference": math.fsum(differences) / len(both),
        "spearman": _correlation(_ranks(mine), _ranks(theirs)),
    }


def choice_agreement(judged: Mapping[int, str], human: Mapping[int, str]) -> dict[str, Any]:
    """How often a judge ends a pair as people do.

    Returns:
        n, equal: the share of equal outcomes; kappa: what of it is beyond chance, None where chance alone gives 1.
    Source: J. Cohen, Educational and Psychological Measurement 20 (1960), 37-46.
    """
    both = sorted(judged.keys() & human.keys())
    if not both:
        return {"n": 0}
    equal = sum(judged[each] == human[each] for each in both) / len(both)
    mine, theirs = (Counter(side[each] for each in both) for side in (judged, human))
    chance = sum(mine[name] * theirs[name] for name in WORTH) / len(both) ** 2
    return {"n": len(both), "equal": equal, "kappa": (equal - chance) / (1 - chance) if chance < 1 else None}


def read_labels(labels: Mapping[int, Any], read: Callable[[Any], Any]) -> tuple[dict[int, Any], int]:
    """Human labels that can be understood, and how many cannot."""
    found = {number: read(value) for number, value in labels.items() if value is not None}
    known = {number: value for number, value in found.items() if value is not None}
    return known, len(found) - len(known)


def human_grade(value: Any) -> float | None:
    """A grade as people write it in a column; None for what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def human_choice(value: Any) -> str | None:
    """What people say of the new model's answer: win, tie, loss, in these words or as new, tie, old."""
    said = {"win": WIN, "won": WIN, "new": WIN, "tie": TIE, "equal": TIE, "loss": LOSS, "lost": LOSS, "old": LOSS}
    return said.get(str(value).strip().lower())


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    places: dict[float, list[int]] = defaultdict(list)
    for rank, value in enumerate(sorted(values), 1):
        places[value].append(rank)
    return [sum(places[value]) / len(places[value]) for value in values]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(np.corrcoef(one, other)[0, 1])
