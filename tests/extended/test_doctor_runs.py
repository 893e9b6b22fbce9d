"""Runs that are broken on purpose are named, and healthy ones raise nothing, also when the model is asked."""

import pytest

from tests.doctor_runs import base_model, cases, judge, make

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    return base_model(folder)


@pytest.mark.parametrize("name", list(cases()))
def test_named_rightly(name, base, tmp_path):
    case = cases()[name]
    right, text = judge(name, case, make(name, case, base, tmp_path))
    assert right, text
