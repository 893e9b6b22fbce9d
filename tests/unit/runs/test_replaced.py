"""An earlier run that is to be overwritten is not lost before the new one begins, wherever the process dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burnish.errors import RunFolderError
from burnish.runs import replaced
from burnish.runs.folder import RunFolder
from tests.unit.runs.test_run_folder import finished_run, names


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    finished_run(folder)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out.tfevents.1").write_text("ours")
    (folder / "tensorboard" / "events.mine").write_text("mine")
    (folder / "notes.md").write_text("mine")
    return folder


def test_it_comes_back_where_training_never_began(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(run)
    folder = RunFolder.open_for_training(run, overwrite=True)
    assert names(run) == [".replaced", "notes.md", "tensorboard"]
    folder.write_summary({"status": "failed"})  # what the new run wrote until it failed
    (run / "log.txt").write_text("new")
    (run / "tensorboard" / "events.out.tfevents.2").write_text("new")
    folder.settle()
    assert content(run) == before
    assert "the earlier run is back" in capsys.readouterr().out
    assert folder.summary()["status"] == "completed"


def test_it_is_gone_when_training_begins(run: Path) -> None:
    folder = RunFolder.open_for_training(run, overwrite=True)
    folder.begin()
    folder.settle()
    assert content(run) == {"notes.md": b"mine", "tensorboard/events.mine": b"mine"}


def test_a_killed_process_loses_nothing(run: Path) -> None:
    """Killed before training began: whoever opens the folder next finds the earlier run, also to go on with it."""
    before = content(run)
    RunFolder.open_for_training(run, overwrite=True).write_summary({"status": "running"})
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.open_for_training(run)
    assert content(run) == before
    RunFolder.open_for_training(run, overwrite=True)
    RunFolder.open_for_training(run, resume=True)
    assert content(run) == before


@pytest.mark.parametrize("moves", range(8))
def test_killed_while_it_is_moved(run: Path, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There and back: however many of the files had been moved, all of them are there afterwards."""
    before, rename, left = content(run), os.rename, [moves]

    def rename_then_die(self: Path, target: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_then_die)
    with pytest.raises(KeyboardInterrupt):
        RunFolder.open_for_training(run, overwrite=True).settle()
    left[0] = 1 << 30
    RunFolder(run).settle()
    assert content(run) == before


def test_killed_while_it_is_deleted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.open_for_training(run, overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(replaced.shutil, "rmtree", lambda *given, **more: None)
        folder.begin()
    assert ".replaced.gone" in names(run)
    folder.settle()
    assert content(run) == {"notes.md": b"mine", "tensorboard/events.mine": b"mine"}


def test_a_move_that_fails_moves_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = content(run), os.rename

    def refuse(self: Path, target: Path) -> None:
        if self.name == "tokenizer.json" and ".replaced" in str(target):
            raise PermissionError(13, "Permission denied", str(self))
        rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunFolderError, match="could not be put aside: Permission denied"):
        RunFolder.open_for_training(run, overwrite=True)
    assert content(run) == before
