"""Files in a folder: each whole, or as it was before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from burnish.runs.files import place_files, remove_asides, settle_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_placed_together(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    (tmp_path / "mine").write_text("mine")

    def writer(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / name).write_text("new")

    place_files(tmp_path, writer)
    assert names(tmp_path) == ["a", "b", "mine"]
    assert (tmp_path / "b").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_who_may_read_a_folder_may_read_its_files(tmp_path: Path, folder: int, file: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("weights")
    path.chmod(0o600)
    tmp_path.chmod(folder)
    settle_file(path)
    assert path.stat().st_mode & 0o777 == file


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), RuntimeError("a defect")])
def test_a_writer_that_fails_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a").write_text("old")

    def writer(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise error

    with pytest.raises(type(error)):
        place_files(tmp_path, writer)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_disk_that_refuses_to_flush_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some disks tell that they are full only here."""
    (tmp_path / "a").write_text("old")

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        place_files(tmp_path, lambda folder: (folder / "a").write_text("new") and None)
    assert (tmp_path / "a").read_text() == "old"


def test_only_what_burnish_left_aside_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".files.tmp-12-ab").mkdir()
    (tmp_path / ".files.tmp-12-ab" / "a").write_text("x")
    foreign = [".mine.tmp-0123abcd", "files.tmp-12-ab", ".run.json", "run.json"]
    for name in [".run.json.tmp-0123abcd", ".metrics.jsonl.tmp-0123abcd", *foreign]:
        (tmp_path / name).write_text("x")
    removed = remove_asides(tmp_path)
    assert [path.name for path in removed] == [
        ".files.tmp-12-ab",
        ".metrics.jsonl.tmp-0123abcd",
        ".run.json.tmp-0123abcd",
    ]
    assert names(tmp_path) == sorted(foreign)
    assert remove_asides(tmp_path / "absent") == []
