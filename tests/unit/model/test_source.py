"""What a model name resolves to, and what is said when it resolves to nothing."""

import json

import pytest

from burnish.errors import ModelError
from burnish.model.source import find_model, with_adapters


def test_folder_and_hub_name(tiny_folder):
    assert find_model(str(tiny_folder)).location == str(tiny_folder)
    hub = find_model("owner/name")
    assert hub.location == "owner/name"
    assert not hub.local


def test_a_run_folder_brings_its_base_and_template(tiny_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_folder)}))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"template": "default", "default_system": "Hm."}}))
    source = find_model(str(tmp_path))
    assert source.location == str(tiny_folder)
    assert source.adapters == (str(tmp_path),)
    assert (source.template, source.default_system) == ("default", "Hm.")


def test_a_base_that_moved_is_found_through_the_run(tiny_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone/model"}))
    with pytest.raises(ModelError, match="base model of this adapter is not there"):
        find_model(str(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"model_name_or_path": str(tiny_folder)}}))
    assert find_model(str(tmp_path)).location == str(tiny_folder)


def test_a_misspelt_run_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert not find_model("runs/frist").local
    (tmp_path / "runs" / "first" / "run.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        find_model("runs/frist")
    assert "did you mean 'runs/first'" in caught.value.fix


def test_an_adapter_that_is_named_twice(tiny_folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_folder)}))
    with pytest.raises(ModelError, match="is named twice"):
        with_adapters(find_model(str(tiny_folder)), [str(tmp_path), f"{tmp_path}/."])


def test_errors(tmp_path, monkeypatch):
    (tmp_path / "llama-3").mkdir()
    with pytest.raises(ModelError) as caught:
        find_model(str(tmp_path / "llama-4"))
    assert f"did you mean '{tmp_path / 'llama-3'}'" in caught.value.fix
    with pytest.raises(ModelError, match="holds no model"):
        find_model(str(tmp_path / "llama-3"))
    with pytest.raises(ModelError) as caught:
        find_model("smollm2-135-instruct")
    assert "did you mean 'smollm2-135m-instruct'" in caught.value.fix
    (tmp_path / "qwen-2.jsonl").write_text("x")
    with pytest.raises(ModelError) as caught:
        find_model(str(tmp_path / "qwen-3"))
    assert "qwen-2" not in caught.value.fix, "data is no model"
    (tmp_path / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert find_model("runs/mime").location == "runs/mime", "no run lies there: it may be on the hub"
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        find_model("runs/mime")
    assert "did you mean 'runs/mine'" in caught.value.fix
    with pytest.raises(ModelError, match="there is no model"):
        find_model("exports/*.gguf")
    with pytest.raises(ModelError, match="not a model"):
        find_model(str(tmp_path / "notes.txt"))
