"""Words of `burnish eval` that are no options."""

from __future__ import annotations

import pytest

from burnish.cli.judge_options import refuse_misspelt
from burnish.errors import BurnishError

OPTIONS = ["--tasks", "--limit", "--compare-base", "--judge", "--judge-model"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--taks", "--tasks"),
        ("--limt=3", "--limit"),
        ("--compare_bas", "--compare-base"),
        ("--jugde", "--judge"),
        ("--judge-modle", "--judge-model"),
    ],
)
def test_an_option_that_is_none_names_the_one_that_was_meant(typed, meant):
    with pytest.raises(BurnishError, match="there is no option") as caught:
        refuse_misspelt([typed, "x"], OPTIONS)
    assert caught.value.fix == f"did you mean '{meant}'?"


def test_settings_and_what_looks_more_like_them_are_left_to_their_reader():
    refuse_misspelt(["--use_cpu", "--use-cpu=true", "use_cpu=true", "limt=3", "--temprature", "a.jsonl"], OPTIONS)
