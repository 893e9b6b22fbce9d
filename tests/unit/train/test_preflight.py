"""What cannot be saved, or has no room, fails before the first step."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import namedtuple

import pytest
import torch

from burnish.api import train
from burnish.errors import ModelError, RunFolderError
from burnish.model.save import mend_generation_config
from burnish.train.loop import Loop
from burnish.train.preflight import checkpoints_to_come
from tests.conftest import build_model
from tests.runs import settings, weights


@pytest.fixture
def no_step(monkeypatch):
    """Whoever makes a step has come too far."""
    monkeypatch.setattr(Loop, "step", lambda self: pytest.fail("a step was made"))


@pytest.mark.parametrize(
    ("total", "done", "every", "limit", "there", "best", "expected"),
    [
        (100, 0, 10, None, 0, False, 10),
        (95, 0, 10, None, 0, False, 10),  # the last step is saved as well
        (100, 50, 10, None, 5, False, 5),
        (100, 0, 10, 3, 0, False, 4),  # a fourth is complete before the first is deleted
        (100, 0, 10, 3, 0, True, 5),
        (100, 50, 10, 3, 3, False, 1),
        (20, 0, 10, 3, 0, False, 2),
        (100, 0, 0, None, 0, False, 2),
        (100, 0, 0, 1, 1, False, 1),
        (100, 100, 10, None, 10, False, 0),
    ],
)
def test_checkpoints_to_come(total, done, every, limit, there, best, expected):
    assert checkpoints_to_come(total, done, every, limit, there, best=best) == expected


def test_too_little_space_for_all_checkpoints(tiny_folder, chat_file, tmp_path, monkeypatch, no_step):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1_000_000))
    values = settings(tiny_folder, chat_file, tmp_path / "run", save_strategy="steps", save_steps=1)
    with pytest.raises(RunFolderError) as caught:
        train({**values, "num_train_epochs": 100})
    assert "600 checkpoints of 0.1 MB" in caught.value.what
    assert "1.0 MB are free" in caught.value.what
    assert "save_total_limit" in caught.value.fix
    with pytest.raises(pytest.fail.Exception):  # two fit, and it goes on to the first step
        train({**values, "num_train_epochs": 100, "save_total_limit": 1})


def test_a_tokenizer_that_cannot_be_saved(tiny_folder, chat_file, tmp_path, monkeypatch, no_step):
    def broken(*_, **__):
        raise NotImplementedError("this tokenizer has no fast form")

    monkeypatch.setattr("burnish.train.resume.save_tokenizer", broken)
    with pytest.raises(ModelError, match="could not be saved: NotImplementedError: this tokenizer"):
        train(settings(tiny_folder, chat_file, tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.txt", "run.json"]


@pytest.mark.parametrize(
    "changes", [{}, {"finetuning_type": "full"}, {"use_dora": True}, {"additional_target": "norm"}]
)
def test_the_rehearsal_leaves_nothing_and_changes_nothing(tiny_folder, chat_file, tmp_path, monkeypatch, changes):
    train(settings(tiny_folder, chat_file, tmp_path / "with", max_steps=2, **changes))
    monkeypatch.setattr("burnish.train.resume.require_saveable", lambda *_: None)
    train(settings(tiny_folder, chat_file, tmp_path / "without", max_steps=2, **changes))
    one, other = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert not [path for path in (tmp_path / "with").iterdir() if path.name.startswith(".")]


def test_a_model_whose_generation_settings_transformers_would_not_save(tiny_folder, chat_file, tmp_path, capsys):
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}))
    train(settings(model, chat_file, tmp_path / "run", finetuning_type="full", max_steps=1))
    assert "do_sample: true" in capsys.readouterr().out
    saved = json.loads((tmp_path / "run" / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["temperature"]) == (True, 0.6)


def test_generation_settings_that_contradict_themselves_otherwise():
    model = build_model()
    assert mend_generation_config(model) is None
    model.generation_config.cache_implementation = "no such cache"
    with pytest.raises(ModelError, match="cannot be saved"):
        mend_generation_config(model)


def test_a_disk_that_is_mounted_read_only(tiny_folder, chat_file, tmp_path, no_step):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(RunFolderError, match="not writable: Read-only file system"):
            train(settings(tiny_folder, chat_file, place / "run"))
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def test_a_cache_that_is_full(tiny_folder, chat_file, tmp_path, monkeypatch, no_step):
    from burnish.errors import DataError
    from tests.crashes import small_disk

    try:
        with small_disk(tmp_path / "disk", 0.02) as place:
            monkeypatch.setenv("BURNISH_CACHE", str(place))
            with open(place / "ballast", "wb", buffering=0) as ballast:
                ballast.write(b"x" * shutil.disk_usage(place).free)
            with pytest.raises(DataError, match=r"prepared data could not be written: .*[Nn]o space left") as caught:
                train(settings(tiny_folder, chat_file, tmp_path / "run"))
            assert "BURNISH_CACHE" in caught.value.fix
            assert not list((place / "prepared").glob("*")) if (place / "prepared").exists() else True
    except PermissionError:
        pytest.skip("needs the right to mount")
