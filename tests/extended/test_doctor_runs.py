"""Runs that are broken on purpose are named, and healthy ones raise nothing: real runs of a tiny model."""

import pytest

from burnish.runs.doctor import Evidence, diagnose
from tests.doctor_runs import base_model, cases, make

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    return base_model(folder)


@pytest.mark.parametrize("name", list(cases()))
def test_named_rightly(name, base, tmp_path):
    case = cases()[name]
    found = {finding.name for finding in diagnose(Evidence.of(make(name, case, base, tmp_path)))}
    assert found & case[2] if case[2] else not found
