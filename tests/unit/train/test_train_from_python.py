"""`burnish.train` stays a function after the room of that name was imported."""

import importlib

import pytest

import burnish
from burnish.errors import BurnishError


def test_it_can_be_called_again():
    importlib.import_module("burnish.train.run")
    for _ in range(2):
        with pytest.raises(BurnishError, match="'dataset' is not set"):
            burnish.train({"model_name_or_path": "m", "output_dir": "o"})
