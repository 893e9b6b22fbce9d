"""The judge's maths: orders, ties, intervals, tests, agreement."""

from __future__ import annotations

import pytest

from burnish.evaluate.judging.ask import Ask
from burnish.evaluate.judging.figures import (
    EQUAL,
    Met,
    choice_agreement,
    grade_agreement,
    grade_difference,
    grade_doubts,
    grade_figures,
    human_choice,
    human_grade,
    meet,
    pair_doubts,
    pair_figures,
)
from burnish.evaluate.judging.replies import Judgement
from burnish.evaluate.paired import bootstrap_mean, mcnemar


def verdicts(*orders, repeat=0, number=0):
    """The two orders of a pair: what was said with the new answer first, and with the old one first."""
    return {
        Ask("better", "honesty", number, side, repeat, ""): Judgement(choice=said, fault=None if said else "nonsense")
        for side, said in zip(("new", "old"), orders, strict=True)
    }


@pytest.mark.parametrize(
    ("new_first", "old_first", "outcome", "agreed"),
    [
        ("A", "B", "win", True),
        ("B", "A", "loss", True),
        ("tie", "tie", "tie", True),
        ("A", "A", "tie", False),
        ("B", "B", "tie", False),
        ("A", "tie", "tie", False),
        ("tie", "A", "tie", False),
    ],
)
def test_both_orders_make_one_verdict(new_first, old_first, outcome, agreed):
    met = meet(verdicts(new_first, old_first), "honesty")[0]
    assert (met.outcome, met.agreed) == (outcome, (agreed,))
    assert met.firsts == tuple(said == "A" for said in (new_first, old_first) if said != "tie")


def test_an_order_without_a_verdict_leaves_the_pair_out():
    heard = verdicts("A", None) | verdicts("A", "B", number=1)
    met = meet(heard, "honesty")
    assert met[0] == Met(None)
    found = pair_figures(met, 2)
    assert (found["n"], found["not_compared"], found["wins"], found["win_rate"]) == (1, 1, 1, 1.0)
    assert pair_figures({0: Met(None)}, 1) == {"n": 0, "not_compared": 1, "equal_answers": 0}
    assert meet(heard, "helpfulness") == {}


def test_repeats_are_averaged_and_compared():
    heard = verdicts("A", "B") | verdicts("A", "B", repeat=1) | verdicts("A", "A", repeat=2)
    met = meet(heard, "honesty")[0]
    assert (met.outcome, met.outcomes) == ("win", ("win", "win", "tie"))
    assert met.worth == pytest.approx((1 + 1 + 0.5) / 3)
    found = pair_figures({0: met}, 1)
    assert found["repeats"] == {"n": 3, "equal": pytest.approx(1 / 3)}
    assert found["orders"] == {"n": 3, "agree": 2, "disagree": 1}
    undecided = verdicts("A", "B") | verdicts("B", "A", repeat=1)
    assert meet(undecided, "honesty")[0].outcome == "tie"


def test_wins_losses_interval_and_sign_test():
    ends = ["win"] * 24 + ["loss"] * 8 + ["tie"] * 8
    worth = {"win": 1.0, "loss": 0.0, "tie": 0.5}
    met = {n: Met(end, worth[end], (True,), (True, False), (end,)) for n, end in enumerate(ends)}
    found = pair_figures(met, 40)
    assert (found["wins"], found["ties"], found["losses"]) == (24, 8, 8)
    assert found["win_rate"] == pytest.approx((24 + 4) / 40)
    assert (found["low"], found["high"]) == bootstrap_mean([worth[end] for end in ends])
    assert found["p"] == mcnemar(24, 8) == pytest.approx(0.00700, abs=1e-5)  # 2 · P(X ≤ 8), X ~ Bin(32, ½)
    assert found["first_share"] == 0.5
    assert found["verdict"].startswith("better: wins 70.0% of 40 pairs")
    assert pair_doubts(found) == []


def test_a_judge_that_likes_the_first_answer_finds_nothing_and_is_told():
    met = {n: meet(verdicts("A", "A", number=n), "honesty")[n] for n in range(30)}
    found = pair_figures(met, 30)
    assert (found["wins"], found["ties"], found["losses"]) == (0, 30, 0)
    assert (found["consistency"], found["first_share"], found["win_rate"], found["p"]) == (0.0, 1.0, 0.5, 1.0)
    assert found["verdict"].startswith("no difference")
    guesses, leans = pair_doubts(found)
    assert "agree on only 0%" in guesses
    assert "leans to the first answer (100% chose the first)" in leans


def test_equal_answers_are_ties_that_say_nothing_about_the_judge():
    found = pair_figures({0: EQUAL, 1: meet(verdicts("A", "B"), "honesty")[0]}, 2)
    assert (found["ties"], found["equal_answers"], found["wins"]) == (1, 1, 1)
    assert found["orders"]["n"] == 1
    assert pair_figures({0: EQUAL}, 1)["consistency"] is None


def grades(side, values, *, repeat=0):
    return {
        Ask("score", "honesty", number, side, repeat, ""): Judgement(grade=value, fault=None if value else "nonsense")
        for number, value in enumerate(values)
    }


def test_mean_grades_with_interval_and_repeats():
    heard = grades("new", [4, 6, None, 8]) | grades("new", [5, 6, None, 5], repeat=1)
    found = grade_figures(heard, "honesty", "new", 4)
    assert (found["n"], found["not_graded"]) == (3, 1)
    assert found["mean"] == pytest.approx((4.5 + 6 + 6.5) / 3)
    assert (found["low"], found["high"]) == bootstrap_mean([4.5, 6, 6.5])
    assert found["repeats"] == {
        "n": 3, "equal": pytest.approx(1 / 3), "within_one": pytest.approx(2 / 3),
        "mean_difference": pytest.approx(4 / 3),
    }  # fmt: skip
    assert grade_figures({}, "honesty", "new", 4) == {"n": 0, "not_graded": 4}


def test_grades_of_two_models_are_compared_row_by_row():
    heard = grades("new", [8, 9, None, 7]) | grades("old", [6, 6, 9, None])
    found = grade_difference(heard, "honesty")
    assert (found["n"], found["old"], found["new"], found["wins"]) == (2, 6.0, 8.5, 2)
    assert grade_difference(grades("new", [5]), "honesty") is None


def test_few_grades_are_told():
    assert "3 graded answers are few" in grade_doubts(grades("new", [5, 6, 7]), "honesty")[0]
    assert grade_doubts({}, "honesty") == []


def test_a_judge_that_gives_one_grade_to_all_is_told():
    [told] = grade_doubts(grades("new", [6] * 30), "honesty")
    assert told == "all 30 grades are 6: this judge tells no answers apart"
    assert grade_doubts(grades("new", [6] * 29 + [7]), "honesty") == []


def test_agreement_with_people():
    found = grade_agreement({0: 1, 1: 2, 2: 3, 3: 9}, {0: 2, 1: 4, 2: 6, 9: 1})
    assert found == {
        "n": 3, "within_one": pytest.approx(1 / 3), "mean_difference": pytest.approx(-2), "spearman": pytest.approx(1),
    }  # fmt: skip
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: the textbook's correlation with ties is 4.5 / sqrt(4.5 · 5).
    tied = grade_agreement(dict(enumerate([1, 5, 5, 9])), dict(enumerate([1, 2, 3, 4])))
    assert tied["spearman"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert grade_agreement({0: 5, 1: 5}, {0: 1, 1: 2})["spearman"] is None
    assert grade_agreement({0: 5}, {1: 5}) == {"n": 0}


def test_cohens_kappa():
    judged = dict(enumerate(["win"] * 25 + ["loss"] * 25))
    human = dict(enumerate(["win"] * 20 + ["loss"] * 5 + ["win"] * 10 + ["loss"] * 15))
    found = choice_agreement(judged, human)
    assert found["equal"] == pytest.approx(0.7)
    assert found["kappa"] == pytest.approx(0.4)  # chance is ½·3/5 + ½·2/5 = ½, so (0.7 - 0.5) / 0.5
    assert choice_agreement({0: "win"}, {0: "win"})["kappa"] is None


def test_labels_of_people_are_read():
    assert [human_grade(each) for each in ("7", 3, 4.5, "good", True, None)] == [7, 3, 4.5, None, None, None]
    assert [human_choice(each) for each in ("Win", "new", " tie", "old", "?", 3)] == [
        "win", "win", "tie", "loss", None, None,
    ]  # fmt: skip
