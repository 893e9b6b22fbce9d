"""The order of samples: complete, repeatable, the same for any number of ranks and any cut into micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.batch.plan import BatchPlan, SingleRows, best_fit_rows


def singles(count):
    return [[number] for number in range(count)]


def test_every_epoch_sees_every_sample_once():
    plan = BatchPlan(singles(11), batch_rows=2, accumulation=2, seed=7)
    assert plan.steps_an_epoch == 3
    for epoch in (0, 1):
        seen = [s for step in range(3) for micro in plan.step(epoch * 3 + step) for s in micro]
        assert sorted(seen) == list(range(11))
    assert plan.order(0) != plan.order(1)


def test_a_step_is_a_pure_function():
    first, second = (BatchPlan(singles(50), 4, 2, seed=3) for _ in range(2))
    first.step(40)
    assert first.step(5) == second.step(5)


def test_no_shuffle_keeps_file_order():
    plan = BatchPlan(singles(5), batch_rows=2, accumulation=1, shuffle=False)
    assert [plan.step(n) for n in range(3)] == [[[0, 1]], [[2, 3]], [[4]]]


@pytest.mark.parametrize("count", [1, 7, 16, 17])
def test_cutting_a_global_batch_does_not_change_it(count):
    whole = BatchPlan(singles(count), batch_rows=8, accumulation=1, seed=1)
    cut = BatchPlan(singles(count), batch_rows=1, accumulation=8, seed=1)
    ranks = BatchPlan(singles(count), batch_rows=2, accumulation=2, ranks=2, seed=1)
    for step in range(whole.steps_an_epoch):
        wanted = sorted(s for micro in whole.step(step) for s in micro)
        assert sorted(s for micro in cut.step(step) for s in micro) == wanted
        by_rank = [ranks.step(step, rank) for rank in (0, 1)]
        assert sorted(s for rank in by_rank for micro in rank for s in micro) == wanted
        assert len(by_rank[0]) == len(by_rank[1])


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 50))
def test_packing_keeps_every_document_whole(lengths, width):
    rows = best_fit_rows(lengths, width)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[n] for n in row) <= width or len(row) == 1


def test_packing_is_best_fit():
    # Longest first: 7 opens a row of 10, 6 another; 4 fits only beside 6, 3 beside 7. Two full rows.
    rows = best_fit_rows([3, 7, 4, 6], 10)
    assert sorted(map(sorted, rows)) == [[0, 1], [2, 3]]


def test_the_stand_in_of_a_rank_without_rows_is_a_whole_sample():
    # A pair of answers is two examples: one alone could not be collated.
    assert BatchPlan(SingleRows(3, 2), 4, 1, ranks=2).stand_in == [0, 1]
    assert BatchPlan(SingleRows(3), 4, 1, ranks=2).stand_in == [0]
    assert BatchPlan([[4, 2], [0]], 1, 1).stand_in == [4, 2]
