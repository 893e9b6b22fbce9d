"""Rows on their way to experiment trackers: what is sent, what is not sent twice, and what failures do."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking

from burnish import log
from burnish.config.training import TRACKERS as NAMES
from burnish.errors import BurnishError, MissingExtraError
from burnish.train import trackers as module
from burnish.train.trackers import TRACKERS, Place, Trackers, installed

ROW = {"step": 2, "epoch": 0.5, "loss": 1.5, "eval_loss": 2.5, "eval_chats_loss": 3.0, "cpu_percent": 40.0}


class Fake:
    """Stands in for an accelerate tracker; keeps what it is called with."""

    made: list[Fake]
    raises: dict[str, Exception]

    def __init__(self, project: str, **options: Any) -> None:
        self.project, self.options, self.rows, self.config, self.finished = project, options, [], None, False
        self.tracker = SimpleNamespace(id=options.get("id", "run-1"))
        type(self).made.append(self)

    def _do(self, what: str) -> None:
        if what in type(self).raises:
            raise type(self).raises[what]

    def start(self) -> None:
        self._do("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        self._do("log")
        self.rows.append((step, values))

    def finish(self) -> None:
        self._do("finish")
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """wandb is installed, and accelerate's class for it is a fake; no other tracker is there."""
    kind = type("FakeWandb", (Fake,), {"made": [], "raises": {}})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", kind)
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    monkeypatch.setattr(module, "_is_installed", lambda kind: kind.package == "wandb")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", "kept")
    return kind


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(log, "note", said.append)
    return said


def place(folder: Path, logging_dir: Path | None = None) -> Place:
    return Place(folder, logging_dir, "first", folder / "cache")


def opened(names: tuple[str, ...], folder: Path, step: int = 0, **more: Any) -> Trackers:
    trackers = Trackers(
        names, place(folder), {"seed": 3, "dataset": ["a", "b"], "kwargs": {"x": 1}, "off": None}, **more
    )
    trackers.start()
    trackers.go_on_after(step)
    return trackers


@contextmanager
def closing(trackers: Trackers) -> Iterator[Trackers]:
    yield trackers
    trackers.finish()


def test_the_settings_know_the_same_names_as_accelerate() -> None:
    assert set(NAMES) == set(TRACKERS) <= set(tracking.LOGGER_TYPE_TO_CLASS)
    for name in NAMES:
        assert tracking.LOGGER_TYPE_TO_CLASS[name].name == name


def test_rows_go_out_in_groups_without_what_is_no_finite_number(tmp_path: Path, fake: type[Fake]) -> None:
    with closing(opened(("wandb", "wandb"), tmp_path)) as trackers:
        trackers.log({**ROW, "text": "x", "grad_norm": math.nan, "flag": True, "none": None})
    (one,) = fake.made
    assert one.rows == [
        (
            2,
            {
                "train/epoch": 0.5,
                "train/loss": 1.5,
                "eval/loss": 2.5,
                "eval/chats_loss": 3.0,
                "system/cpu_percent": 40.0,
            },
        )
    ]
    assert one.finished
    assert one.project == "burnish"
    assert one.options == {"name": "first", "dir": str(tmp_path)}
    assert one.config == {"seed": 3, "dataset": "a, b", "kwargs": '{"x": 1}'}
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "run-1"}


def test_the_project_and_the_folder_can_be_named(
    tmp_path: Path, fake: type[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "orders")
    trackers = Trackers(("all",), place(tmp_path, tmp_path / "logs"), {})
    trackers.start()
    assert (fake.made[0].project, fake.made[0].options["dir"]) == ("orders", str(tmp_path / "logs"))
    assert (tmp_path / "logs").is_dir()


def test_a_resumed_run_goes_on_under_its_id_and_sends_no_row_twice(tmp_path: Path, fake: type[Fake]) -> None:
    with closing(opened(("wandb",), tmp_path)) as trackers:
        trackers.log({"step": 0, "eval_loss": 1.0})
        trackers.log({"step": 4, "loss": 1.0})
    assert [step for step, _ in fake.made[0].rows] == [0, 4]
    with closing(opened(("wandb",), tmp_path, step=2, resumes=True, last_step=4)) as trackers:
        for step in (3, 4, 5):
            trackers.log({"step": step, "loss": 1.0})
    again = fake.made[1]
    assert (again.options["id"], again.options["resume"]) == ("run-1", "allow")
    assert [step for step, _ in again.rows] == [5]
    assert again.config is None
    # A new run in the same folder is a new one for the tracker too; one that joins later gets all that comes.
    with closing(opened(("wandb",), tmp_path)) as trackers:
        trackers.log({"step": 1, "loss": 1.0})
    assert "id" not in fake.made[2].options
    (tmp_path / "trackers.json").unlink()
    with closing(opened(("wandb",), tmp_path, step=2, resumes=True, last_step=4)) as trackers:
        trackers.log({"step": 3, "loss": 1.0})
    assert [step for step, _ in fake.made[3].rows] == [3]


def test_a_tracker_that_is_not_installed_says_how(tmp_path: Path, fake: type[Fake]) -> None:
    with pytest.raises(MissingExtraError) as caught:
        Trackers(("wandb", "comet_ml"), place(tmp_path), {})
    assert caught.value.what == "report_to: comet_ml needs packages that are not installed: comet-ml"
    assert caught.value.fix == "pip install comet-ml"
    assert fake.made == []


def test_a_tracker_without_a_login_stops_the_run_at_its_start(
    tmp_path: Path, fake: type[Fake], notes: list[str]
) -> None:
    fake.raises["start"] = RuntimeError("\n  api_key not configured (no-tty)\nmore")
    with pytest.raises(BurnishError) as caught:
        opened(("wandb",), tmp_path)
    assert caught.value.what == "wandb could not start: RuntimeError: api_key not configured (no-tty)"
    assert caught.value.at == "report_to: wandb"
    assert "WANDB_MODE=offline" in str(caught.value.fix)
    trackers = opened(("all",), tmp_path)  # who asks for all that are there goes on with the others
    trackers.log(ROW)
    assert notes == [f"{caught.value.what}; the others go on (report_to: all)"]


def test_a_failure_on_the_way_is_told_once_and_the_run_goes_on(
    tmp_path: Path, fake: type[Fake], notes: list[str]
) -> None:
    with closing(opened(("wandb",), tmp_path)) as trackers:
        fake.raises["log"] = ConnectionError("no route")
        trackers.log({"step": 1, "loss": 1.0})
        trackers.log({"step": 2, "loss": 1.0})
        assert notes == ["wandb did not take the row of step 1: ConnectionError: no route; the training goes on"]
        fake.raises.clear()
        trackers.log({"step": 3, "loss": 1.0})  # the network is back
        fake.raises["log"] = ConnectionError("no route")
        for step in (4, 5, 6, 7):
            trackers.log({"step": step, "loss": 1.0})
        fake.raises.clear()
        trackers.log({"step": 8, "loss": 1.0})
    assert notes[1:] == ["wandb gets no more rows of this run; metrics.jsonl has them all"]
    assert [step for step, _ in fake.made[0].rows] == [3]
    assert fake.made[0].finished


def test_a_tracker_that_cannot_close_stops_nothing(tmp_path: Path, fake: type[Fake], notes: list[str]) -> None:
    with closing(opened(("wandb",), tmp_path)):
        fake.raises["finish"] = OSError("gone")
    assert notes == ["wandb did not close well: OSError: gone"]


def test_a_run_that_failed_is_closed_as_one(tmp_path: Path, fake: type[Fake]) -> None:
    trackers = opened(("wandb",), tmp_path)
    closed: list[int] = []
    fake.made[0].tracker.finish = lambda exit_code: closed.append(exit_code)
    trackers.finish(failed=True)
    assert (closed, fake.made[0].finished) == ([1], False)


def test_none_is_nobody(tmp_path: Path) -> None:
    with closing(opened(("none",), tmp_path)) as trackers:
        trackers.log(ROW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("tensorboard" not in installed(), reason="tensorboard is not installed")
def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with closing(opened(("tensorboard",), tmp_path)) as trackers:
        for step in (1, 2, 3, 4):
            trackers.log({"step": step, "loss": 10.0 + step, "eval_loss": 1.0})
    with closing(opened(("tensorboard",), tmp_path, step=2, resumes=True, last_step=4)) as trackers:
        for step in (3, 4, 5):
            trackers.log({"step": step, "loss": 20.0 + step})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 11.0),
        (2, 12.0),
        (3, 23.0),
        (4, 24.0),
        (5, 25.0),
    ]
    assert [event.step for event in events.Scalars("eval/loss")] == [1, 2]
    (text,) = events.Tensors("settings/text_summary")
    assert b"| seed | 3 |" in text.tensor_proto.string_val[0]
    assert [item.name for item in tmp_path.iterdir()] == ["tensorboard"]  # no further runs beside it


@pytest.mark.skipif("tensorboard" not in installed(), reason="tensorboard is not installed")
def test_runs_that_share_a_folder_stay_apart(tmp_path: Path) -> None:
    for name in ("first", "second"):
        trackers = Trackers(("tensorboard",), Place(tmp_path / name, tmp_path / "logs", name, tmp_path), {})
        trackers.start()
        trackers.go_on_after(0)
        trackers.log(ROW)
        trackers.finish()
    assert sorted(item.name for item in (tmp_path / "logs").iterdir()) == ["first", "second"]
