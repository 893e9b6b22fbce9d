"""The mistakes a new user makes: exit 2, no traceback, what / at / fix. Through the real command line."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.runs import burnish, settings


def write(path, values):
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(path)


def refused(*arguments, **more):
    done = burnish(*arguments, **more)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


@pytest.fixture
def run(tiny_folder, chat_file, tmp_path):
    return settings(tiny_folder, chat_file, tmp_path / "run")


def test_a_missing_settings_file(tmp_path):
    (tmp_path / "train.yaml").write_text("stage: sft\n")
    error = refused("train", str(tmp_path / "trian.yaml"))
    assert "trian.yaml" in error
    assert "train.yaml" in error


def test_misspelt_keys_are_reported_together(run, tmp_path):
    path = write(tmp_path / "run.yaml", {**run, "lora_rnak": 8, "learning_rat": 1, "quantization_bit": 3})
    error = refused("train", path)
    assert "lora_rnak" in error
    assert "did you mean 'lora_rank'" in error
    assert "did you mean 'learning_rate'" in error
    assert "quantization_bit" in error
    assert f"{path}:" in error


def test_bad_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("stage: sft\n  dataset: [a\n")
    error = refused("train", str(path))
    assert "run.yaml" in error
    assert "line" in error or ":2" in error


def test_a_wrong_column(run, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"prompt": "Hi", "response": "Yo"}] * 3))
    info = {"mine": {"file_name": "rows.json", "columns": {"prompt": "prompt", "response": "respnse"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    error = refused("train", write(tmp_path / "run.yaml", {**run, "dataset": "mine", "dataset_dir": str(tmp_path)}))
    assert "respnse" in error
    assert "did you mean 'response'" in error
    assert "dataset_info.json: mine.columns.response" in error


def test_an_unknown_dataset(run, tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps({"alpaca_en": {"file_name": "a.json"}}))
    changed = {**run, "dataset": "alpaca_em", "dataset_dir": str(tmp_path)}
    assert "alpaca_en" in refused("train", write(tmp_path / "run.yaml", changed))


def test_empty_data(run, tmp_path):
    (tmp_path / "empty.json").write_text("[]")
    changed = {**run, "dataset": str(tmp_path / "empty.json")}
    assert "empty.json" in refused("train", write(tmp_path / "run.yaml", changed))


def test_a_missing_model(run, tmp_path):
    changed = {**run, "model_name_or_path": str(tmp_path / "no" / "model")}
    assert "there is no model" in refused("train", write(tmp_path / "run.yaml", changed))


def test_nothing_left_to_train_on_fails_before_the_weights(run, tmp_path, tiny_folder):
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare)
    (bare / "model.safetensors").unlink()
    changed = {**run, "model_name_or_path": str(bare), "cutoff_len": 4, "overlong": "drop"}
    assert "no sample is left to train on" in refused("train", write(tmp_path / "run.yaml", changed))


def test_an_output_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("x")
    changed = {**run, "output_dir": str(tmp_path / "file" / "run")}
    assert "file" in refused("train", write(tmp_path / "run.yaml", changed))


def test_no_arguments_and_unknown_commands():
    assert "nothing to train" in refused("train")
    assert burnish("trian").returncode == 2


def test_chat_with_a_folder_that_holds_no_model(tmp_path):
    assert "holds no model" in refused("chat", str(tmp_path), "--prompt", "Hi")
