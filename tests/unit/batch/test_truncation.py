"""Nothing leaves truncation without a label, and every drop has a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.batch.truncation import (
    DROPPED_NO_LABEL,
    DROPPED_NO_LABEL_AFTER_CUT,
    DROPPED_TOO_LONG,
    fit,
    split_budget,
)
from burnish.errors import DataError
from burnish.template import Piece


def pair(prompt, answer, tail=0):
    pieces = [
        Piece(list(range(100, 100 + prompt)), "prompt"),
        Piece(list(range(200, 200 + answer)), "answer"),
    ]
    return pieces + ([Piece(list(range(300, 300 + tail)), "tail")] if tail else [])


@pytest.mark.parametrize(
    ("source", "target", "budget", "expected"),
    [
        (100, 30, 80, (50, 30)),  # a short answer is kept whole, the prompt gives way
        (30, 100, 80, (30, 50)),  # a short prompt is kept whole, the answer gives way
        (100, 100, 80, (40, 40)),  # both long: in proportion
        (10, 10, 80, (10, 10)),
    ],
)
def test_the_rule_for_a_pair(source, target, budget, expected):
    assert split_budget(source, target, budget) == expected


def test_what_fits_is_untouched():
    fitted = fit(pair(5, 3, 1), 9)
    assert fitted.cut == 0
    assert fitted.example.labels == [-100] * 5 + [200, 201, 202] + [-100]


def test_policies():
    with pytest.raises(DataError, match="8 tokens, more than cutoff_len 6"):
        fit(pair(5, 3), 6, overlong="error", where="a, row 3")
    assert fit(pair(5, 3), 6, overlong="drop").reason == DROPPED_TOO_LONG
    kept = fit(pair(10, 2), 6).example
    assert kept.input_ids == [100, 101, 102, 103, 200, 201]


def test_a_sample_without_a_label_is_dropped():
    assert fit([Piece([1, 2], "prompt")], 10).reason == DROPPED_NO_LABEL
    assert fit([Piece([], "prompt"), Piece([5], "answer")], 10).reason == DROPPED_NO_LABEL
    assert fit(pair(50, 50), 1).reason == DROPPED_NO_LABEL_AFTER_CUT


def test_early_turns_stay_whole_and_mask_history_keeps_the_last():
    long = pair(4, 4) + pair(4, 4)
    early = fit(long, 10).example
    assert early.input_ids[:8] == [100, 101, 102, 103, 200, 201, 202, 203]
    late = fit(long, 10, mask_history=True).example
    assert late.input_ids[-8:] == [100, 101, 102, 103, 200, 201, 202, 203]
    assert [label for label in late.labels if label != -100] == [200, 201, 202, 203]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=4),
    st.integers(1, 60),
    st.booleans(),
)
def test_never_too_long_and_never_unlabelled(turns, cutoff, mask_history):
    pieces = [piece for turn in turns for piece in pair(*turn)]
    fitted = fit(pieces, cutoff, mask_history=mask_history)
    if fitted.example is None:
        assert fitted.reason
    else:
        assert len(fitted.example.input_ids) <= cutoff
        assert fitted.example.supervised >= 1
