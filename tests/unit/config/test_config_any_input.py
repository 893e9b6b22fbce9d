"""Whatever is given, the answer is settings or a SettingsError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.config import Settings, load_settings
from burnish.config.catalogue import OLDER_NAMES, catalogue
from burnish.errors import SettingsError

NAMES = st.sampled_from([*catalogue(), *OLDER_NAMES, "vllm_x", "HF_ENDPOINT", "lr", "training.seed"])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 20)
    | st.floats()
    | st.floats(0, 1)
    | st.text()
    | st.sampled_from(["no", "steps", "all", "lora", "full", "1e-4", "true", "a,b", "~", "cosine", "none"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    PLAIN | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)
MAPPINGS: st.SearchStrategy[dict[Any, Any]] = st.dictionaries(NAMES | st.text() | st.integers(), VALUES, max_size=6)


def attempt(source: Any, overrides: list[str]) -> Settings | None:
    """Settings, checked to survive a trip through JSON; None for a SettingsError that can be shown."""
    try:
        loaded = load_settings(source, overrides)
    except SettingsError as wrong:
        error = wrong
    else:
        flat = json.loads(json.dumps(loaded.flat(), allow_nan=False))
        assert load_settings(flat).flat() == flat
        return loaded
    assert error.problems
    assert all(problem.what and problem.fix for problem in error.problems)
    assert str(error)
    return None


@settings(max_examples=200, deadline=None)
@given(MAPPINGS)
def test_any_mapping(source: dict[Any, Any]) -> None:
    attempt(source, [])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, PLAIN, max_size=3))
def test_any_plain_values_of_known_names(source: dict[str, Any]) -> None:
    attempt(source, [])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.text(max_size=12)
        | st.builds("{}={}".format, NAMES, PLAIN)
        | st.builds("--{}".format, NAMES)
        | st.builds("--{}={}".format, NAMES, st.text(max_size=8)),
        max_size=5,
    )
)
def test_any_command_line(words: list[str]) -> None:
    attempt({}, words)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.text(alphabet="ab:-[]{}#&*!|>'\"%@`, \n\t01.e~?<=", max_size=40).map(str.encode)
    | MAPPINGS.map(lambda mapping: json.dumps(mapping, default=str, skipkeys=True).encode()),
    st.sampled_from(["run.yaml", "run.json"]),
)
def test_any_file(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    attempt(path, [])


@pytest.mark.parametrize("digits", [5000, 400])
def test_very_long_numbers(tmp_path: Path, digits: int) -> None:
    for name, text in (("a.yaml", "seed: {}"), ("a.json", '{{"seed": {}}}')):
        path = tmp_path / name
        path.write_text(text.format("9" * digits))
        assert attempt(path, []) is None
    assert attempt({"learning_rate": 10**digits}, []) is None
    assert attempt({}, ["seed=" + "9" * digits]) is None
