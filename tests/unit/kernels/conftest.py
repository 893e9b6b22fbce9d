"""What the tests of kernels share."""

import os

import pytest

from burnish.kernels import elementwise
from burnish.kernels.native import CannotCompile, native


def can_compile():
    """Whether kernels can be made here. One that gives something else is a failure then, not a reason to skip."""
    try:
        native("elementwise")
    except CannotCompile:
        return False
    return os.environ.get("BURNISH_ELEMENTWISE") != "plain"


@pytest.fixture(params=["kernels", "plain"])
def both_ways(request, monkeypatch):
    """Runs a test with the kernels for single numbers, and with what takes their place where there is no compiler."""
    if request.param == "plain":
        monkeypatch.setattr(elementwise, "is_there", lambda: False)
    elif not can_compile():
        pytest.skip("no compiler")
    else:
        assert elementwise.is_there()
    return request.param
