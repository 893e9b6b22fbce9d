"""Going on after a stop: where a run ended, what was best, which checkpoint is taken, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal

import pytest
import torch

from burnish.api import train
from burnish.errors import Interrupted, RunFolderError
from burnish.model.save import save_tokenizer
from burnish.runs import metrics
from burnish.runs.checkpoints import list_checkpoints
from burnish.train import loop as loops
from burnish.train import resume
from burnish.train.callbacks import Callback
from tests.conftest import build_model, build_tokenizer
from tests.crashes import rows
from tests.runs import settings, weights

SAVES = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 1}  # six steps
EVALUATES = {"val_size": 2, "eval_strategy": "steps", "eval_steps": 1}


def names(run):
    return [path.name for path in list_checkpoints(run)]


def same(one, other):
    found, expected = weights(one), weights(other)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def unfinished(run):
    """As if the process had been killed before its last words."""
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "status": "running"}))
    for file in run.glob("adapter_*"):
        file.unlink()


def test_the_last_step_is_a_checkpoint_and_finishing_from_it_trains_nothing(
    tiny_folder, chat_file, tmp_path, monkeypatch
):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES, **EVALUATES) | {"save_steps": 4}
    record = train(values)
    assert names(tmp_path / "run") == ["checkpoint-4", "checkpoint-5"]
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    unfinished(tmp_path / "run")
    monkeypatch.setattr(loops.Loop, "step", lambda self: pytest.fail("a step was made"))
    again = train({**values, "resume_from_checkpoint": True})
    assert same(tmp_path / "run", tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert again["train"]["eval_loss"] == record["train"]["eval_loss"] is not None
    assert again["train"]["train_loss"] == record["train"]["train_loss"]


def test_a_run_that_ended_early_stays_ended(tiny_folder, chat_file, tmp_path):
    common = {**SAVES, **EVALUATES, "early_stopping_steps": 1, "learning_rate": 0.0}  # nothing improves
    values = settings(tiny_folder, chat_file, tmp_path / "run", **common)
    record = train(values)
    assert record["train"]["steps"] == 2
    unfinished(tmp_path / "run")
    again = train({**values, "resume_from_checkpoint": True})
    assert again["train"]["steps"] == 2
    assert again["train"]["ended"] == record["train"]["ended"]
    longer = train({**values, "resume_from_checkpoint": True, "early_stopping_steps": 9, "num_train_epochs": 1.2})
    assert longer["train"]["steps"] > 2  # but it goes on where that is asked for


class Ends(Callback):
    def on_step(self, run):
        if run.step == 2:
            run.stop("enough")


def test_a_callback_that_ended_a_run_is_remembered(tiny_folder, chat_file, tmp_path):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES)
    train(values, callbacks=[Ends()])
    unfinished(tmp_path / "run")
    record = train({**values, "resume_from_checkpoint": True}, callbacks=[Ends()])
    assert (record["train"]["steps"], record["train"]["ended"]) == (2, "enough")


def test_an_evaluation_before_the_first_step_stands_once(tiny_folder, chat_file, tmp_path):
    class Dies(Callback):
        def on_step(self, run):
            raise KeyboardInterrupt

    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES, **EVALUATES, eval_on_start=True)
    with pytest.raises(KeyboardInterrupt):
        train(values, callbacks=[Dies()])
    train({**values, "resume_from_checkpoint": True})
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3, 4, 5]


def test_the_best_comes_along_to_another_folder(tiny_folder, chat_file, tmp_path):
    falling = {**EVALUATES, "load_best_model_at_end": True, "greater_is_better": True, "num_train_epochs": 2}
    values = settings(tiny_folder, chat_file, tmp_path / "one", **{**SAVES, **falling})
    record = train(values)
    best = record["train"]["best"]["step"]
    assert best < 6
    from_there = {"resume_from_checkpoint": str(tmp_path / "one" / "checkpoint-6")}
    shutil.copytree(tmp_path / "one", tmp_path / "damaged")
    other = train({**values, "output_dir": str(tmp_path / "two"), **from_there})
    assert other["train"]["best"] == record["train"]["best"]
    assert same(tmp_path / "two", tmp_path / "one")
    shutil.rmtree(tmp_path / "damaged" / f"checkpoint-{best}")
    lost = train(
        {
            **values,
            "output_dir": str(tmp_path / "three"),
            "resume_from_checkpoint": str(tmp_path / "damaged" / "checkpoint-6"),
        }
    )
    assert lost["train"]["best"]["step"] > 6  # the best of those that are left


def test_a_best_checkpoint_that_is_damaged_at_the_end_does_not_lose_the_last_weights(
    tiny_folder, chat_file, tmp_path, capsys
):
    class Damages(Callback):
        def on_end(self, run):
            for path in list_checkpoints(run.folder)[:-1]:
                (path / "adapter_model.safetensors").write_bytes(b"half")

    falling = {**EVALUATES, "load_best_model_at_end": True, "greater_is_better": True, "num_train_epochs": 2}
    values = settings(tiny_folder, chat_file, tmp_path / "run", **{**SAVES, **falling})
    record = train(values, callbacks=[Damages()])
    assert record["status"] == "completed"
    assert "was the best and cannot be used" in capsys.readouterr().out
    assert same(tmp_path / "run", list_checkpoints(tmp_path / "run")[-1])


@pytest.mark.parametrize("which", ["true", "path", "empty path"])
def test_no_checkpoint_that_can_be_used_is_an_error_and_not_a_new_start(tiny_folder, chat_file, tmp_path, which):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES)
    train(values)
    unfinished(tmp_path / "run")
    before = rows(tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run"):
        (path / "adapter_model.safetensors").write_bytes(b"half")
    (tmp_path / "nothing").mkdir()
    asked = {"true": True, "path": str(tmp_path / "run" / "checkpoint-2"), "empty path": str(tmp_path / "nothing")}
    changes = {"output_dir": str(tmp_path / "other")} if which == "empty path" else {}
    with pytest.raises(RunFolderError, match=r"not complete|is complete|no checkpoint here"):
        train({**values, **changes, "resume_from_checkpoint": asked[which]})
    assert rows(tmp_path / "run") == before
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_a_new_start_beside_checkpoints_of_weights_only_sets_them_aside(tiny_folder, chat_file, tmp_path):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES, save_only_model=True, save_total_limit=1)
    train(values)
    unfinished(tmp_path / "run")
    train({**values, "resume_from_checkpoint": True})
    assert names(tmp_path / "run") == ["checkpoint-6"]
    assert len(list((tmp_path / "run").glob("abandoned-checkpoint-6-*"))) == 1


def test_changed_settings_that_break_exactness_are_named(tiny_folder, chat_file, tmp_path, capsys):
    common = {**SAVES, "streaming": True, "max_steps": 4, "buffer_size": 5}
    train(settings(tiny_folder, chat_file, tmp_path / "run", **common))
    changed = {"max_steps": 6, "buffer_size": 7, "seed": 4, "resume_from_checkpoint": True}
    train(settings(tiny_folder, chat_file, tmp_path / "run", **{**common, **changed}))
    said = capsys.readouterr().out
    for line in ("buffer_size was 5 and is now 7", "seed was 3 and is now 4", "max_steps was 4 and is now 6"):
        assert f"{line}: the run will not be the same one" in said


@pytest.mark.parametrize("changes", [{}, {"finetuning_type": "full"}], ids=["lora", "full"])
def test_a_checkpoint_of_another_model_is_refused(tiny_folder, chat_file, tmp_path, changes):
    other = tmp_path / "other"
    build_model(hidden_size=48, num_hidden_layers=1).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    train(settings(tiny_folder, chat_file, tmp_path / "run", **SAVES, **changes))
    unfinished(tmp_path / "run")
    with pytest.raises(RunFolderError, match="the checkpoint does not fit this model") as caught:
        train(settings(other, chat_file, tmp_path / "run", **SAVES, **changes, resume_from_checkpoint=True))
    assert caught.value.at.endswith("checkpoint-6")
    assert "the same model" in caught.value.fix


def test_rows_are_flushed_before_the_checkpoint_that_needs_them(tiny_folder, chat_file, tmp_path, monkeypatch):
    """After a power cut a checkpoint without its rows would leave a hole in metrics.jsonl."""
    order = []
    flush, seal = metrics.fsync_file, resume.write_checkpoint
    monkeypatch.setattr(metrics, "fsync_file", lambda path: (order.append(path.name), flush(path)))
    monkeypatch.setattr(resume, "write_checkpoint", lambda *a: (order.append(f"checkpoint-{a[1]}"), seal(*a))[1])
    train(settings(tiny_folder, chat_file, tmp_path / "run", **SAVES))
    assert order == [name for step in (2, 4, 6) for name in ("metrics.jsonl", f"checkpoint-{step}")]


# -- signals ------------------------------------------------------------------------------------------------------


def test_a_signal_in_an_evaluation_keeps_its_result(tiny_folder, chat_file, tmp_path, monkeypatch):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES, **EVALUATES)
    measure = loops.evaluate

    def signalled(*given):
        if not list_checkpoints(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*given)

    monkeypatch.setattr(loops, "evaluate", signalled)
    with pytest.raises(Interrupted) as caught:
        train(values)
    assert caught.value.checkpoint.endswith("checkpoint-1")
    assert "eval_loss" in rows(tmp_path / "run")[0]
    monkeypatch.undo()
    train({**values, "resume_from_checkpoint": True})
    train({**values, "output_dir": str(tmp_path / "whole")})
    assert same(tmp_path / "run", tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_signal_while_the_model_is_loaded_ends_the_run_there(tiny_folder, chat_file, tmp_path, monkeypatch):
    def loading(*_):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr("burnish.train.job.build_model", loading)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tiny_folder, chat_file, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


# -- the final save -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_final_save_that_fails_leaves_the_files_before_it(tiny_folder, chat_file, tmp_path, monkeypatch, number):
    values = settings(tiny_folder, chat_file, tmp_path / "run", **SAVES)
    train(values)
    shutil.copytree(tmp_path / "run", tmp_path / "first")

    def failing(tokenizer, folder, *more):
        if folder.name.startswith(".files") and list_checkpoints(tmp_path / "run")[-1].name == "checkpoint-8":
            raise OSError(number, os.strerror(number))
        save_tokenizer(tokenizer, folder, *more)

    monkeypatch.setattr("burnish.train.resume.save_tokenizer", failing)
    longer = {**values, "max_steps": 8, "resume_from_checkpoint": True}
    with pytest.raises(RunFolderError, match="the trained weights could not be saved; checkpoint-8 holds them"):
        train(longer)
    assert same(tmp_path / "run", tmp_path / "first")  # those of step 6, whole
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    monkeypatch.undo()
    monkeypatch.setattr(loops.Loop, "step", lambda self: pytest.fail("a step was made"))
    train(longer)
    assert same(tmp_path / "run", tmp_path / "run" / "checkpoint-8")
