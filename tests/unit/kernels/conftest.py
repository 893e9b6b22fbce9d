"""What the tests of kernels share."""

import pytest

from burnish.kernels import elementwise


@pytest.fixture(params=["kernels", "plain"])
def both_ways(request, monkeypatch):
    """Runs a test with the kernels for single numbers, and with what takes their place where there is no compiler."""
    if request.param == "plain":
        monkeypatch.setattr(elementwise, "is_there", lambda: False)
    elif not elementwise.is_there():
        pytest.skip("no compiler")
    return request.param
