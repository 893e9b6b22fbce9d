"""PEFT is imported without bitsandbytes, and knows its layers as soon as a model has some."""

from __future__ import annotations

import subprocess
import sys

import pytest


def told(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


BEGIN = """
import sys
from torch import nn
from burnish.model.compat import import_peft
import_peft()
import_peft()
import peft
import peft.tuners.lora.model as layers
"""


def test_layers_of_bitsandbytes_get_their_own_adapters_later_in_the_same_process():
    pytest.importorskip("bitsandbytes")
    code = (
        BEGIN
        + """
config = peft.LoraConfig(target_modules=["0"])
peft.get_peft_model(nn.Sequential(nn.Linear(64, 64)), config)
print("bitsandbytes" in sys.modules, layers.is_bnb_available(), layers.is_bnb_4bit_available())
import bitsandbytes
model = nn.Sequential(bitsandbytes.nn.Linear4bit(64, 64))
model.is_loaded_in_4bit = True
print(layers.is_bnb_available(), layers.is_bnb_4bit_available())
print(type(peft.get_peft_model(model, config).base_model.model[0]).__name__)
print(peft.helpers.bnb.functional is bitsandbytes.functional)
"""
    )
    assert told(code).split() == ["False", "False", "False", "True", "True", "Linear4bit", "True"]


def test_the_stand_in_gives_way_to_whoever_uses_it():
    pytest.importorskip("bitsandbytes")
    code = (
        BEGIN
        + """
print(peft.helpers.bnb.nn.Linear4bit.__name__, "bitsandbytes" in sys.modules)
"""
    )
    assert told(code).split() == ["Linear4bit", "True"]


def test_peft_still_asks_as_the_correction_knows_it():
    from peft.tuners.lora import model

    from burnish.model.compat import PEFT_ASKS

    for name in PEFT_ASKS:
        assert name in vars(model)
        assert hasattr(getattr(model, name), "__wrapped__"), "a cached question, or what stands in its place"
    import inspect

    assert all(name in inspect.getsource(model) for name in PEFT_ASKS)
