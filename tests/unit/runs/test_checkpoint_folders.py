"""Checkpoint folders: complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.errors import RunFolderError
from burnish.runs import checkpoints
from burnish.runs.checkpoints import (
    clean_leftovers,
    list_checkpoints,
    newest_complete,
    rotate,
    verify,
    write_checkpoint,
)


def save(parent: Path, step: int, content: str = "weights") -> Path:
    def writer(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_text(f"{content} {step}")
        (folder / "state").mkdir()
        (folder / "state" / "rng.json").write_text("{}")

    return write_checkpoint(parent, step, writer)


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def forget_what_this_process_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_written_here", {})


def test_a_checkpoint_is_complete_and_described(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    assert path == tmp_path / "checkpoint-20"
    assert names(tmp_path) == ["checkpoint-20"]
    assert verify(path) == []
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 20
    assert manifest["files"]["adapter_model.safetensors"]["size"] == len("weights 20")
    # printf 'weights 20' | sha256sum
    assert manifest["files"]["adapter_model.safetensors"]["sha256"] == (
        "6ed338b4f9eb15ed88fbfd6c56a877815e06545289d361b473d20185360dac08"
    )
    assert set(manifest["files"]) == {"adapter_model.safetensors", "state/rng.json"}


def test_a_writer_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    save(tmp_path, 10)

    def writer(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        write_checkpoint(tmp_path, 20, writer)
    assert names(tmp_path) == ["checkpoint-10"]


def test_an_interrupt_in_mid_save_passes_through(tmp_path: Path) -> None:
    def writer(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 20, writer)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_the_users_to_mend_and_harms_no_checkpoint(tmp_path: Path, error: Exception) -> None:
    earlier = save(tmp_path, 10)

    def writer(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(RunFolderError, match="the disk is full: checkpoint-20") as caught:
        write_checkpoint(tmp_path, 20, writer)
    assert "resume_from_checkpoint" in str(caught.value)
    assert caught.value.__cause__ is error
    assert names(tmp_path) == ["checkpoint-10"]
    assert verify(earlier) == []


def test_a_full_disk_under_a_checkpoint_that_is_replaced_keeps_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 10, "old")

    def writer(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunFolderError):
        write_checkpoint(tmp_path, 10, writer)
    assert (tmp_path / "checkpoint-10" / "adapter_model.safetensors").read_text() == "old 10"


def test_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 10, "old")
    path = save(tmp_path, 10, "new")
    assert names(tmp_path) == ["checkpoint-10"]
    assert (path / "adapter_model.safetensors").read_text() == "new 10"
    assert verify(path) == []


def test_the_old_one_comes_back_when_the_last_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 10, "old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if ".tmp-" in Path(source).name:
            raise PermissionError(errno.EACCES, "in use")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(PermissionError):
        save(tmp_path, 10, "new")
    assert names(tmp_path) == ["checkpoint-10"]
    assert (tmp_path / "checkpoint-10" / "adapter_model.safetensors").read_text() == "old 10"


@pytest.mark.parametrize("content", [{}, {"manifest.json": "{}"}])
def test_a_writer_must_write_something_but_no_manifest(tmp_path: Path, content: dict[str, str]) -> None:
    def writer(folder: Path) -> None:
        for name, text in content.items():
            (folder / name).write_text(text)

    with pytest.raises(ValueError, match="writer"):
        write_checkpoint(tmp_path, 1, writer)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("moment", ["in the writer", "between the renames"])
def test_killed_in_mid_save(tmp_path: Path, moment: str) -> None:
    save(tmp_path, 10, "old")
    script = f"""
import os, signal, sys
from pathlib import Path
from burnish.runs import checkpoints
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
parent, moment = Path(sys.argv[1]), {moment!r}
rename = os.rename
def renaming(source, target):
    if moment == "between the renames" and ".tmp-" in Path(source).name:
        die()
    rename(source, target)
os.rename = renaming
def writer(folder):
    (folder / "adapter_model.safetensors").write_text("half")
    if moment == "in the writer":
        die()
checkpoints.write_checkpoint(parent, 10, writer)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    newest, skipped = newest_complete(tmp_path)
    assert newest == tmp_path / "checkpoint-10"
    assert skipped == []
    assert (newest / "adapter_model.safetensors").read_text() == "old 10"
    assert len(clean_leftovers(tmp_path)) == 1
    assert names(tmp_path) == ["checkpoint-10"]


def test_leftovers_go_and_foreign_hidden_folders_stay(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for name in (".checkpoint-20.tmp-123-abcd", ".checkpoint-10.old-1-ab", ".checkpoints-mine", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    removed = clean_leftovers(tmp_path)
    assert [path.name for path in removed] == [".checkpoint-10.old-1-ab", ".checkpoint-20.tmp-123-abcd"]
    assert names(tmp_path) == [".checkpoints-mine", ".git", "checkpoint-10"]
    assert clean_leftovers(tmp_path / "absent") == []


def damage_missing(path: Path) -> None:
    (path / "state" / "rng.json").unlink()


def damage_byte(path: Path) -> None:
    (path / "adapter_model.safetensors").write_text("weightz 20")


def damage_length(path: Path) -> None:
    (path / "adapter_model.safetensors").write_text("weights")


def damage_no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def damage_torn_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"schema": 1, "fil')


def damage_empty_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"schema": 1, "files": {}}')


def damage_outside(path: Path) -> None:
    facts = {"size": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps({"schema": 1, "files": {"../../etc/passwd": facts}}))


DAMAGES = [
    (damage_missing, "state/rng.json: missing"),
    (damage_byte, "adapter_model.safetensors: the content changed after it was saved (SHA-256 differs)"),
    (damage_length, "adapter_model.safetensors: 7 bytes instead of 10"),
    (damage_no_manifest, "manifest.json: missing (not saved by Burnish, or not completely)"),
    (damage_torn_manifest, "manifest.json: unreadable"),
    (damage_empty_manifest, "manifest.json: names no files"),
    (damage_outside, "../../etc/passwd: the manifest names a file outside the checkpoint"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tmp_path: Path, damage: object, reason: str) -> None:
    whole, broken = save(tmp_path, 10), save(tmp_path, 20)
    damage(broken)  # type: ignore[operator]
    assert [problem.startswith(reason) for problem in verify(broken)] == [True]
    newest, skipped = newest_complete(tmp_path)
    assert newest == whole
    assert [path for path, _ in skipped] == [broken]
    assert skipped[0][1].startswith(reason)


def test_the_newest_is_the_highest_number_not_the_last_name(tmp_path: Path) -> None:
    for step in (100, 20, 9):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-20",
        "checkpoint-100",
    ]
    assert newest_complete(tmp_path)[0] == tmp_path / "checkpoint-100"


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) == (None, [])
    assert newest_complete(tmp_path / "absent") == (None, [])
    assert verify(tmp_path / "absent") == ["no such folder"]


def test_files_beyond_the_manifest_are_no_problem(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "notes.txt").write_text("mine")
    assert verify(path) == []


def test_rotation_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step)
    removed = rotate(tmp_path, 1, protect=[tmp_path / "checkpoint-20"])
    assert [path.name for path in removed] == ["checkpoint-10", "checkpoint-30"]
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-40"]


@pytest.mark.parametrize("keep", [None, 0, -1])
def test_rotation_without_a_limit_deletes_nothing(tmp_path: Path, keep: int | None) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20)
    assert rotate(tmp_path, keep) == []
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_rotation_never_deletes_the_newest_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object, reason: str
) -> None:
    for step in (10, 15, 20):
        save(tmp_path, step)
    damage(tmp_path / "checkpoint-20")  # type: ignore[operator]
    forget_what_this_process_wrote(monkeypatch)
    rotate(tmp_path, 1)
    assert newest_complete(tmp_path)[0] == tmp_path / "checkpoint-15"
    assert not (tmp_path / "checkpoint-10").exists()


def test_rotation_leaves_what_others_saved(tmp_path: Path) -> None:
    foreign = tmp_path / "checkpoint-5"
    foreign.mkdir()
    (foreign / "trainer_state.json").write_text("{}")
    save(tmp_path, 10)
    save(tmp_path, 20)
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-20", "checkpoint-5"]


def test_rotation_deletes_nothing_when_nothing_is_complete(tmp_path: Path) -> None:
    for step in (10, 20):
        damage_missing(save(tmp_path, step))
    assert rotate(tmp_path, 1) == []
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]


def test_rotation_trusts_the_hashes_of_what_this_process_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (10, 20):
        save(tmp_path, step)
    monkeypatch.setattr(checkpoints, "_sha256", lambda path: pytest.fail("hashed again"))
    assert [path.name for path in rotate(tmp_path, 1)] == ["checkpoint-10"]


def test_a_folder_that_cannot_be_deleted_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (10, 20):
        save(tmp_path, step)

    def refusing(path: Path) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(checkpoints, "remove_checkpoint", refusing)
    assert rotate(tmp_path, 1) == []
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20"]
