"""Which engine answers, and that no setting which it would ignore is taken in silence."""

from __future__ import annotations

import pytest

from burnish.errors import BurnishError
from burnish.model.source import find_model
from burnish.serve import load
from burnish.serve.load import Wanted, load_serving


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """The name of a .gguf file, in a world where llama.cpp is installed."""
    monkeypatch.setattr(load, "is_installed", lambda: True)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    return str(tmp_path / "m.gguf")


def chosen(model, **wanted):
    return load._engine_for(Wanted(model, **wanted), find_model(model))


def test_auto_takes_llamacpp_for_what_it_can_do(gguf, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert chosen(str(tmp_path)) == "burnish"
    assert chosen(gguf) == "llamacpp"
    assert chosen(gguf, given=frozenset({"template", "temperature", "use_cpu"})) == "llamacpp"
    for setting in ("infer_dtype", "quantization_bit", "adapter_name_or_path"):
        assert chosen(gguf, given=frozenset({setting})) == "burnish"
    assert chosen(gguf, adapters={"a": "somewhere"}) == "burnish"
    monkeypatch.setattr(load, "is_installed", lambda: False)
    assert chosen(gguf) == "burnish"


@pytest.mark.parametrize(
    ("engine", "setting"),
    [
        *(("llamacpp", name) for name in ("infer_dtype", "quantization_bit", "adapter_name_or_path", "cache_dir")),
        *(("vllm", name) for name in ("use_cpu", "quantization_bit", "adapter_name_or_path", "infer_backend")),
    ],
)
def test_a_setting_that_an_engine_would_ignore_is_an_error(gguf, tmp_path, engine, setting):
    (tmp_path / "config.json").write_text("{}")
    model = gguf if engine == "llamacpp" else str(tmp_path)
    with pytest.raises(BurnishError, match=f"'{setting}' has no effect with the engine {engine}"):
        load_serving(Wanted(model, engine=engine, given=frozenset({setting, "temperature"})), lambda _: None)


def test_vllm_gets_whole_weights(gguf):
    with pytest.raises(BurnishError, match="whole weights only"):
        chosen(gguf, engine="vllm")
