"""Samples to score, and functions of a user's own in a file."""

from __future__ import annotations

import textwrap

import pytest

from burnish.data.records import Conversation, Turn
from burnish.rewards import RewardSample, build_rewards


@pytest.fixture
def sample():
    """Makes a sample: the completion, its row, and the columns of the row."""

    def make(completion="4", row=0, dataset="sums", **reference):
        prompt = Conversation((Turn("system", "Be brief."), Turn("user", "What is 2 + 2?")))
        return RewardSample(prompt, completion, reference, dataset, row, tuple(range(len(completion))), True)

    return make


@pytest.fixture
def rewards():
    """`build_rewards`, closed at the end."""
    made = []

    def make(*arguments, **options):
        made.append(build_rewards(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes mine.py into the current folder; returns its path as settings name it."""
    monkeypatch.chdir(tmp_path)

    def write(code):
        (tmp_path / "mine.py").write_text(textwrap.dedent(code))
        return "mine.py"

    return write
