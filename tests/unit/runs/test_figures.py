"""Intervals of a proportion, against values worked out by hand."""

from __future__ import annotations

import pytest

from burnish.runs.figures import share_in_order, wilson_interval


def test_worked_out_by_hand() -> None:
    # n = 4, z = 2, so z²/n = 1.
    # p = 1/2: centre (1/2 + 1/2) / 2 = 1/2, half 2/2 · sqrt(1/16 + 1/16) = sqrt(1/8).
    assert wilson_interval(2, 4, z=2) == pytest.approx((0.5 - 0.125**0.5, 0.5 + 0.125**0.5))
    # p = 0: centre (0 + 1/2) / 2 = 1/4, half 2/2 · sqrt(0 + 1/16) = 1/4. p = 1 is its mirror image.
    assert wilson_interval(0, 4, z=2) == (0.0, pytest.approx(0.5))
    assert wilson_interval(4, 4, z=2) == (pytest.approx(0.5), 1.0)


def test_an_end_at_the_edge_is_exact() -> None:
    for total in (1, 7, 32, 1000):
        assert wilson_interval(0, total)[0] == 0.0
        assert wilson_interval(total, total)[1] == 1.0


def test_more_trials_tell_more() -> None:
    widths = [high - low for low, high in (wilson_interval(total // 2, total) for total in (4, 40, 400))]
    assert widths == sorted(widths, reverse=True)


def test_the_ends_solve_the_equation_of_the_score_test() -> None:
    # Wilson's interval holds the rates q with |p - q| <= z · sqrt(q(1-q)/n); its ends meet it exactly.
    hits, total, z = 27, 32, 1.96
    for q in wilson_interval(hits, total, z):
        assert abs(hits / total - q) == pytest.approx(z * (q * (1 - q) / total) ** 0.5)


def test_nothing_tried_nothing_known() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "total", "z"), [(-1, 4, 1.96), (5, 4, 1.96), (1, 4, -1.0)])
def test_impossible_counts(hits: int, total: int, z: float) -> None:
    with pytest.raises(ValueError, match="must"):
        wilson_interval(hits, total, z)


def test_pairs_in_order_by_hand() -> None:
    # 3 beats 1 and 2; 1 ties with 1 and loses to 2: (1 + 1 + 1/2 + 0) / 4.
    assert share_in_order([3.0, 1.0], [2.0, 1.0]) == 0.625
    assert share_in_order([2.0, 1.0], [3.0, 1.0]) == 0.375  # the two kinds changed places: the rest of 1
    assert share_in_order([0.0] * 3, [0.0] * 5) == 0.5  # values that know nothing
    assert share_in_order([1.0], [0.5, -2.0, 0.9]) == 1.0


def test_no_pair_has_no_order() -> None:
    assert share_in_order([1.0], []) is None
    assert share_in_order([], [1.0]) is None


def test_a_nan_is_never_in_order() -> None:
    nan = float("nan")
    assert share_in_order([nan, 2.0], [1.0]) == 0.5
    assert share_in_order([2.0], [1.0, nan]) == 0.5
