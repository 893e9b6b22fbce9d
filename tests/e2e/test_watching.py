"""A run that is watched: the rows in the run folder, in TensorBoard and beside a tracker that fails."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking

from burnish import log
from burnish.api import train
from burnish.errors import BurnishError, Interrupted, MissingExtraError
from burnish.runs.folder import RunFolder
from burnish.train import trackers
from tests.runs import settings

SECRET = "hf_abcdefghijklmnop"
needs_tensorboard = pytest.mark.skipif("tensorboard" not in trackers.installed(), reason="tensorboard is not installed")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


@needs_tensorboard
def test_tensorboard_has_the_rows_of_the_run_folder_across_an_interruption(
    tiny_folder: Path, chat_file: Path, tmp_path: Path
) -> None:
    given = settings(
        tiny_folder,
        chat_file,
        tmp_path / "run",
        report_to="tensorboard",
        hf_hub_token=SECRET,
        save_strategy="steps",
        save_steps=2,
        val_size=2,
        eval_strategy="steps",
        eval_steps=5,
        max_steps=10,
        num_train_epochs=3.0,
    )

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(given, callbacks=[interrupt])
    folder = RunFolder(tmp_path / "run")
    (newest,) = folder.path.glob("checkpoint-5")
    newest.rename(tmp_path / "aside")  # so that step 5 comes again
    train({**given, "resume_from_checkpoint": True})

    rows = folder.metrics.read()
    assert [row["step"] for row in rows] == list(range(1, 11))
    events = tmp_path / "run" / "tensorboard"
    assert scalars(events, "train/loss") == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows]
    evaluated = [(row["step"], pytest.approx(row["eval_loss"], rel=1e-6)) for row in rows if "eval_loss" in row]
    assert scalars(events, "eval/loss") == evaluated
    assert len(list(events.iterdir())) == 2
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path

    train({**given, "overwrite_output_dir": True, "max_steps": 1, "save_strategy": "no"})
    assert [step for step, _ in scalars(events, "train/loss")] == [1]  # nothing of the run before


def test_a_tracker_that_fails_does_not_harm_the_run(
    tiny_folder: Path, chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down:
        def __init__(self, project: str, **options: Any) -> None:
            self.tracker = SimpleNamespace(id="x", finish=lambda exit_code: ended.append("failed"))

        def start(self) -> None:
            pass

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            assert values["learning_rate"] == 5e-3
            assert "hf_hub_token" not in values

        def log(self, values: dict[str, Any], step: int) -> None:
            raise ConnectionError("the network is away")

        def finish(self) -> None:
            ended.append("finished")

    said: list[str] = []
    ended: list[str] = []
    monkeypatch.setattr(log, "note", said.append)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Down)
    monkeypatch.setattr(trackers, "_is_installed", lambda kind: True)
    given = settings(tiny_folder, chat_file, tmp_path / "run", report_to="wandb", hf_hub_token=SECRET, max_steps=5)
    assert train(given)["status"] == "completed"
    assert len([line for line in said if line.startswith("wandb")]) == 2
    assert ended == ["finished"]

    def fail(row: dict[str, Any]) -> None:
        raise RuntimeError("a callback of the user's own")

    with pytest.raises(BurnishError):
        train({**given, "overwrite_output_dir": True}, callbacks=[fail])
    assert ended == ["finished", "failed"]
    assert not any(thread.name == "burnish-monitor" for thread in threading.enumerate())


def test_what_stops_a_run_comes_before_the_model_is_loaded(
    tiny_folder: Path, chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.train.job.build_model", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(trackers, "_is_installed", lambda kind: kind.package != "comet_ml")
    given = settings(tiny_folder, chat_file, tmp_path / "run", report_to="comet_ml")
    with pytest.raises(MissingExtraError, match="pip install comet-ml"):
        train(given)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(trackers, "_make", lambda *_: [].pop())
    with pytest.raises(BurnishError, match="wandb could not start: IndexError: pop from empty list"):
        train({**given, "report_to": "wandb"})
