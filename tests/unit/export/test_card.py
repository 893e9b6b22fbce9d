"""The model card says what the training was."""

from __future__ import annotations

import pytest

from burnish.export.card import card

REPORT = {
    "name": "it",
    "format": "hf",
    "model": "run",
    "base": "owner/base",
    "adapters": [],
    "merged": [],
    "dtype": "float32",
    "difference": None,
}


@pytest.mark.parametrize(("max_steps", "length"), [(3, "| max_steps | 3 |"), (-1, "| num_train_epochs | 2 |")])
def test_one_of_two_lengths_is_named(max_steps, length):
    settings = {"stage": "sft", "max_steps": max_steps, "num_train_epochs": 2.0}
    text = card({"settings": settings}, REPORT, base=None, evaluation=None)
    assert [row for row in text.splitlines() if "max_steps" in row or "epochs" in row] == [length]


@pytest.mark.parametrize(
    ("changes", "said"), [({}, "hf, float32"), ({"format": "gguf q8_0", "file": "it.gguf"}, "gguf q8_0")]
)
def test_the_kind_of_the_weights_is_one(changes, said):
    assert f"Weights: {said}.\n" in card({}, REPORT | changes, base=None, evaluation=None)
