"""A user's own function: the form that its parameters show, and what it is called with."""

from __future__ import annotations

import pytest

from burnish.errors import BurnishError

FORMS = """
import functools
import numpy as np
import torch

def each(sample):
    return len(sample.completion)

async def each_async(sample):
    return len(sample.completion)

def batch(samples):
    return np.array([len(one.completion) for one in samples])

async def batch_async(samples):
    return torch.tensor([len(one.completion) for one in samples])

def lists(completions, answer, **columns):
    assert list(columns) == ["hint", "prompts", "completion_ids"], list(columns)
    assert columns["hint"] == ["h", None]
    return [len(text) + len(right) for text, right in zip(completions, answer)]

async def lists_async(prompts, completions):
    assert prompts == ["What is 2 + 2?"] * 2
    return [len(text) for text in completions]

def messages(prompts: list[list[dict[str, str]]], completions: list[list[dict[str, str]]]) -> list[float]:
    assert [turn["role"] for turn in prompts[0]] == ["system", "user"]
    return [len(one[0]["content"]) for one in completions]

class Object:
    def __call__(self, sample):
        return len(sample.completion)

as_object = Object()
partly = functools.partial(lambda bonus, sample: bonus + len(sample.completion), 0)

def shifted(sample, bonus=1.0):
    return len(sample.completion) + bonus

def needs(sample, bonus):
    return len(sample.completion) + bonus
"""


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("each", {}, [1.0, 2.0]),
        ("each_async", {}, [1.0, 2.0]),
        ("batch", {}, [1.0, 2.0]),
        ("batch_async", {}, [1.0, 2.0]),
        ("lists", {}, [2.0, 4.0]),
        ("lists_async", {}, [1.0, 2.0]),
        ("messages", {}, [1.0, 2.0]),
        ("as_object", {}, [1.0, 2.0]),
        ("partly", {}, [1.0, 2.0]),
        ("shifted", {}, [2.0, 3.0]),
        ("shifted", {"bonus": 5}, [6.0, 7.0]),
        ("needs", {"bonus": 7}, [8.0, 9.0]),
    ],
)
def test_forms(sample, rewards, own, name, params, expected):
    file = own(FORMS)
    found = rewards([{"name": f"{file}:{name}", **params}]).score(
        [sample("a", answer="b", hint="h"), sample("ab", answer="cd")]
    )
    assert (found.totals, found.notes) == (expected, [])


def test_a_function_of_trl_runs_as_it_is(sample, rewards):
    good = "<think>\nhm\n</think>\n4"
    found = rewards(["trl.rewards:think_format_reward"]).score([sample(good), sample("4")])
    assert found.totals == [1.0, 0.0]


def test_messages_can_be_asked_for(sample, rewards, own):
    file = own("def f(completions):\n    return [len(one[0]['content']) for one in completions]\n")
    assert rewards([{"name": f"{file}:f", "format": "messages"}]).score([sample("abc")]).totals == [3.0]
    text = rewards([f"{file}:f"]).score([sample("abc")])
    assert text.totals == [None]
    assert "raised TypeError" in text.notes[0]


def test_columns_that_a_function_names(rewards, own):
    file = own("def f(completions, solution, level=None, *, other, **more):\n    return []\n")
    [function] = rewards([f"{file}:f"]).functions
    assert function.columns == ("solution", "other")
    [function] = rewards([{"name": f"{file}:f", "other": 3}]).functions
    assert function.columns == ("solution",)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def f(samples):\n    return [1.0]", "reward 'f' gave 1 answers for 2 samples"),
        ("def f(samples):\n    return 1.0", "reward 'f' answered float for a batch, not a list"),
        ("async def f(completions):\n    return None", "reward 'f' answered NoneType for a batch, not a list"),
        ("def f(sample):\n    return 'good'", "reward 'f' answered str 'good', not a number"),
        ("def f(samples):\n    return (x for x in [1, 2])", "reward 'f' answered generator for a batch, not a list"),
    ],
)
def test_answers_that_are_wrong(sample, rewards, own, code, what):
    file = own(code)
    with pytest.raises(BurnishError) as caught:
        rewards([f"{file}:f"]).score([sample(), sample()])
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ("mine.py", "'mine.py' names a file and no function", "write mine.py:my_function"),
        ("mine.py:g", "there is no function 'g' in mine.py", "known: Kind, f, nothing, two"),
        ("yours.py:f", "there is no file yours.py", "paths are relative to the current folder"),
        ("mine.py:two", "the parameters of mine.py:two fit no form: a, b", "write f(sample), f(samples) or"),
        ("mine.py:nothing", "the parameters of mine.py:nothing fit no form: ", "write f(sample), f(samples) or"),
        ("mine.py:Kind", "mine.py:Kind is a class, not a function", "write f(sample), f(samples) or"),
        ({"name": "mine.py:f", "bonsu": 1}, "mine.py:f takes no parameter 'bonsu'", "did you mean 'bonus'?"),
    ],
)
def test_what_fits_no_form(rewards, own, entry, what, fix):
    own("def f(sample, bonus=0): ...\ndef two(a, b): ...\ndef nothing(): ...\nclass Kind: ...\n")
    with pytest.raises(BurnishError) as caught:
        rewards([entry])
    assert caught.value.what == what
    assert caught.value.at == "reward_funcs"
    assert caught.value.fix.startswith(fix)
