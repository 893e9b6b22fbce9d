"""Words of a command line that are no options."""

from __future__ import annotations

import pytest

from burnish.cli.main import app
from burnish.cli.settings_arguments import EvalCommand, refuse_misspelt
from burnish.errors import BurnishError, ModelError

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
        refuse_misspelt([typed, "x"], OPTIONS, own=EvalCommand.own)
    assert caught.value.fix == f"did you mean '{meant}'?"


def test_settings_and_what_looks_more_like_them_are_left_to_their_reader():
    words = ["--use_cpu", "--use-cpu=true", "use_cpu=true", "limt=3", "--temprature", "a.jsonl", "--lr=1e-4", "-x=1"]
    refuse_misspelt(words, OPTIONS)


def test_what_only_a_judge_has_is_never_a_setting():
    with pytest.raises(BurnishError) as caught:
        refuse_misspelt(["--judge-by-the-colour-of-the-answer"], OPTIONS, own=EvalCommand.own)
    assert caught.value.fix == "known: --judge, --judge-model"


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("chat m --comprae", "did you mean '--compare'?"),
        ("chat m --promt hi", "did you mean '--prompt'?"),
        ("chat m prompt=hi", "write --prompt hi"),
        ("serve m --slot 3", "did you mean '--slots'?"),
        ("serve m api_key=x port=80", "write --port 80"),
        ("export m --adaptor-only", "did you mean '--adapter-only'?"),
        ("predict m --modle x", "did you mean '--model'?"),
        ("eval m --compare_bas", "did you mean '--compare-base'?"),
        ("data inspect r.yaml --fromat jsonl", "did you mean '--format'?"),
        ("data stats r.yaml --pgn x", "did you mean '--png'?"),
    ],
)
def test_every_command_that_takes_settings_knows_its_own_options(line, fix):
    with pytest.raises(BurnishError) as caught:
        app(line.split(), standalone_mode=False)
    assert caught.value.fix == fix


@pytest.mark.parametrize("line", ["chat no-such-model --compare", "chat no-such-model --compare=other do_sample=false"])
def test_what_a_command_reads_by_itself_is_left_to_it(line):
    with pytest.raises(ModelError):
        app(line.split(), standalone_mode=False)
