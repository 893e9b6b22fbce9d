"""Nothing is lost: a run that is killed, stopped or out of disk goes on to the very weights of an undisturbed one.

A few chosen moments; `pytest --extended` tries every moment and random ones, with every kind of run.
"""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack

import pytest

from burnish.runs.checkpoints import list_checkpoints, verify
from tests.crashes import Fault, Trial, assert_same, small_disk
from tests.runs import BASE

CALLBACK = """
import os, shutil, signal
from pathlib import Path
from burnish.train.callbacks import Callback

class Filling(Callback):
    # Fill the run's disk once, at a moment that a file beside the run names: "moment step bytes-left".
    def at(self, moment, run):
        order = run.folder.parent / "fill.txt"
        if not order.exists() or order.read_text().split()[:2] != [moment, str(run.step)]:
            return
        left = int(order.read_text().split()[2])
        order.unlink()
        with open(run.folder.parent / "ballast", "wb", buffering=0) as ballast:
            free = shutil.disk_usage(run.folder).free
            ballast.write(b"x" * (free - left))

    def on_step(self, run):
        self.at("step", run)

    def on_save(self, run, checkpoint):
        self.at("save", run)

class Twice(Callback):
    def on_step(self, run):
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def chosen(tiny_folder, tmp_path_factory):
    """The settings of all runs here: six steps, a checkpoint after each second one, evaluation in between."""
    folder = tmp_path_factory.mktemp("crashes")
    lines = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n} " * (n % 5 + 1)}]}
        for n in range(14)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "disturb.py").write_text(CALLBACK, encoding="utf-8")
    return {
        **BASE,
        "model_name_or_path": str(tiny_folder),
        "dataset": [str(folder / "chats.jsonl")],
        "num_train_epochs": 1,
        "val_size": 2,
        "lora_dropout": 0.1,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 1,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "load_best_model_at_end": True,
        "logging_steps": 2,
        "callbacks": [f"{folder / 'disturb.py'}:Filling"],
    }


@pytest.fixture(scope="module")
def whole(chosen, tmp_path_factory):
    trial = Trial(tmp_path_factory.mktemp("whole"), chosen)
    trial.finish()
    return trial


def test_killed_at_the_worst_moments(chosen, whole, tmp_path):
    trial = Trial(tmp_path, chosen)
    moments = [
        r"os.rename cache/prepared/.*part",  # the data is prepared, and not yet in its place
        r"open run/\.checkpoint-2\.tmp.*/trainer_state",  # weights are there, the state is not
        r"os.rename run/\.checkpoint-4\.tmp",  # whole, and not yet in its place
        r"os.rename run/checkpoint-",  # an old one is about to be deleted
        r"os.rename run/\.files\.tmp-.*/adapter_model",  # half of the final files are in their place
        r"os.rename run/\.run\.json.*",  # the summary of a run that goes on
    ]
    for moment in moments:
        assert trial.struck(Fault(matches=moment, number=signal.SIGKILL)), moment
    trial.finish()
    assert_same(trial, whole)


@pytest.mark.parametrize(
    ("moment", "says", "kept"),
    [
        ("step 2 0", "metrics.jsonl could not be written", []),
        ("step 4 60000", "checkpoint-4 could not be saved", ["checkpoint-3"]),  # in the middle of a checkpoint
        ("save 6 20000", "checkpoint-6 holds them", ["checkpoint-6"]),  # after the last one: the final weights
    ],
)
def test_a_disk_that_fills_up_loses_nothing(chosen, whole, tmp_path, moment, says, kept):
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(tmp_path / "disk", 6))
        except (PermissionError, FileNotFoundError) as error:
            pytest.skip(f"needs the right to mount: {error}")
        trial = Trial(tmp_path, chosen, disk=disk)
        (disk / "fill.txt").write_text(moment)
        assert trial.start().wait() == 2, trial.said()
        assert "the disk is full" in trial.said()
        assert says in trial.said()
        assert "Traceback" not in trial.said()
        assert "free some space" in trial.said()
        assert [path.name for path in list_checkpoints(trial.run)] == kept
        assert all(verify(path) == [] for path in list_checkpoints(trial.run))
        assert not [path.name for path in trial.run.iterdir() if path.name.startswith(".")]
        assert trial.rows() == [row for row in whole.rows() if kept and row["step"] <= 4 + 2 * ("save" in moment)]
        (disk / "ballast").unlink()
        trial.finish()
        if "save" in moment:
            assert "training 1/6" not in trial.said()
        assert_same(trial, whole)


@pytest.mark.parametrize(
    ("moment", "saved"),
    [
        (r"os.mkdir cache/prepared/.*part", None),  # while data is prepared: nothing to save
        (r"os.rename run/\.checkpoint-2\.tmp", 3),  # while a checkpoint is written: it is finished, then one more step
    ],
)
def test_a_signal_at_any_moment_ends_in_order(chosen, whole, tmp_path, moment, saved):
    trial = Trial(tmp_path, chosen)
    assert trial.start(Fault(matches=moment, number=signal.SIGTERM)).wait() == 130, trial.said()
    assert "Traceback" not in trial.said()
    assert json.loads((trial.run / "run.json").read_text())["status"] == "interrupted"
    newest = list_checkpoints(trial.run)[-1:]
    assert [path.name for path in newest] == ([f"checkpoint-{saved}"] if saved else [])
    trial.finish()
    assert_same(trial, whole)


def test_a_second_signal_ends_it_at_once(chosen, whole, tmp_path):
    folder = chosen["callbacks"][0].rpartition(":")[0]
    trial = Trial(tmp_path, {**chosen, "callbacks": [f"{folder}:Twice"]})
    assert trial.start().wait() == 130
    assert [path.name for path in list_checkpoints(trial.run)] == ["checkpoint-2"]  # not the third step
    again = Trial(tmp_path, chosen)
    again.finish()
    assert_same(again, whole)
