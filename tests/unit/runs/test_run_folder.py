"""The run folder: who may write into it, what is deleted (never anything foreign), and run.json."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from burnish.errors import EXIT_USER, RunFolderError
from burnish.runs import files, preflight
from burnish.runs.checkpoints import write_checkpoint
from burnish.runs.folder import RunFolder, free_bytes, read_summary


def finished_run(path: Path) -> RunFolder:
    """A run folder with a checkpoint, weights, a shard, a tokenizer and metrics."""
    folder = RunFolder.open_for_training(path)
    folder.write_summary({"status": "completed"})
    folder.metrics.append({"step": 1, "loss": 2.0})
    write_checkpoint(path, 1, lambda place: (place / "adapter_model.safetensors").write_text("x") and None)
    for name in (
        "adapter_model.safetensors",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "log.txt",
    ):
        (path / name).write_text("ours")
    return folder


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = RunFolder.open_for_training(tmp_path / "a b" / "订单")
    assert folder.path.is_dir()
    assert names(folder.path) == []
    assert folder.summary_path == folder.path / "run.json"
    assert folder.loss_plot_path.name == "loss.png"
    assert folder.log_path.name == "log.txt"


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run")
    assert names(tmp_path) == []


def test_a_run_is_not_overwritten_without_saying_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run(run)
    before = names(run)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open_for_training(run)
    assert "overwrite_output_dir: true" in str(caught.value)
    assert "resume_from_checkpoint: true" in str(caught.value)
    assert str(run) in str(caught.value)
    assert caught.value.exit_code == EXIT_USER
    assert names(run) == before


def test_checkpoints_alone_are_a_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.open_for_training(tmp_path / "run")


def test_overwriting_deletes_our_files_and_no_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run(run)
    foreign = ["README.md", "data.json", "my_model.safetensors", "checkpoint-notes", "predictions.csv"]
    for name in foreign:
        (run / name).write_text("mine")
    (run / "checkpoint-best").mkdir()
    (run / "tokenizer").mkdir()
    RunFolder.open_for_training(run, overwrite=True).begin()
    assert names(run) == sorted([*foreign, "checkpoint-best", "tokenizer"])


def test_overwriting_removes_links_not_what_they_point_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run(run)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "weights").write_text("mine")
    (run / "checkpoint-2").symlink_to(kept, target_is_directory=True)
    (run / "model.safetensors").symlink_to(kept / "weights")
    RunFolder.open_for_training(run, overwrite=True).begin()
    assert names(run) == []
    assert names(kept) == ["weights"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_resuming_deletes_nothing_even_with_overwrite(tmp_path: Path, overwrite: bool) -> None:
    run = tmp_path / "run"
    finished_run(run)
    before = names(run)
    RunFolder.open_for_training(run, overwrite=overwrite, resume=True)
    RunFolder.open_for_training(run, overwrite=overwrite, resume=str(run / "checkpoint-1"))
    assert names(run) == before


def test_resuming_with_nothing_there_starts_a_run(tmp_path: Path) -> None:
    assert RunFolder.open_for_training(tmp_path / "run", resume=True).path.is_dir()


def test_resuming_cleans_up_after_a_kill(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run(run)
    (run / ".checkpoint-2.tmp-12-ab").mkdir()
    RunFolder.open_for_training(run, resume=True)
    assert not (run / ".checkpoint-2.tmp-12-ab").exists()


def test_a_checkpoint_to_resume_from_must_exist(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist") as caught:
        RunFolder.open_for_training(tmp_path / "run", resume=str(tmp_path / "checkpoint-7"))
    assert "checkpoint-7" in (caught.value.at or "")


def test_a_checkpoint_of_another_run_does_not_open_this_one(tmp_path: Path) -> None:
    finished_run(tmp_path / "one")
    finished_run(tmp_path / "two")
    other = str(tmp_path / "two" / "checkpoint-1")
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.open_for_training(tmp_path / "one", resume=other)
    RunFolder.open_for_training(tmp_path / "one", overwrite=True, resume=other).begin()
    assert names(tmp_path / "one") == []
    assert (tmp_path / "two" / "checkpoint-1").is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_foreign_files_is_used_and_nothing_deleted(tmp_path: Path, overwrite: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("notes.md", "train.jsonl", "log.txt"):
        (run / name).write_text("mine")
    RunFolder.open_for_training(run, overwrite=overwrite)
    assert names(run) == ["log.txt", "notes.md", "train.jsonl"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_model_folder_without_a_run_is_never_filled(tmp_path: Path, overwrite: bool) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text("precious")
    with pytest.raises(RunFolderError, match=r"holds no run.*config\.json, model\.safetensors"):
        RunFolder.open_for_training(model, overwrite=overwrite)
    assert names(model) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("given", ["run", "run/checkpoint-1", "run/adapter_model.safetensors"])
@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_what_the_run_reads_is_not_written_over(tmp_path: Path, given: str, how: dict[str, bool]) -> None:
    finished_run(tmp_path / "run")
    before = names(tmp_path / "run")
    with pytest.raises(RunFolderError, match="write over a model or data that it reads"):
        RunFolder.open_for_training(tmp_path / "run", inputs=[tmp_path / given], **how)  # type: ignore[arg-type]
    assert names(tmp_path / "run") == before


def test_data_beside_the_run_and_names_that_are_no_paths_are_fine(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    data = tmp_path / "run" / "data" / "train.json"
    data.parent.mkdir()
    data.write_text("[]")
    RunFolder.open_for_training(tmp_path / "run", overwrite=True, inputs=[data, "someone/a-model", tmp_path])
    assert data.read_text() == "[]"


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_failed_before_its_first_step_does_not_block_the_folder(tmp_path: Path, status: str) -> None:
    run = tmp_path / "run"
    RunFolder.open_for_training(run).write_summary({"status": status, "error": "no such model"})
    RunFolder.open_for_training(run, resume=True)
    assert names(run) == ["run.json"]
    RunFolder.open_for_training(run)
    assert names(run) == []


@pytest.mark.parametrize("status", ["running", "completed"])
def test_a_run_that_may_be_alive_or_done_blocks_the_folder(tmp_path: Path, status: str) -> None:
    RunFolder.open_for_training(tmp_path / "run").write_summary({"status": status})
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.open_for_training(tmp_path / "run")


def test_a_failed_run_with_steps_blocks_the_folder(tmp_path: Path) -> None:
    folder = RunFolder.open_for_training(tmp_path / "run")
    folder.write_summary({"status": "failed"})
    folder.metrics.append({"step": 1})
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.open_for_training(tmp_path / "run")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(RunFolderError, match="a file is in the way") as caught:
            RunFolder.open_for_training(path)
        assert caught.value.at == str(tmp_path / "file")
        assert caught.value.fix
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunFolderError, match="not writable"):
            RunFolder.open_for_training(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(**options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(preflight.tempfile, "TemporaryFile", refusing)
    with pytest.raises(RunFolderError, match=os.strerror(number)) as caught:
        RunFolder.open_for_training(tmp_path / "run")
    assert "free some space" in str(caught.value) or number != errno.ENOSPC
    assert names(tmp_path) == []


def test_a_name_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not writable: File name too long"):
        RunFolder.open_for_training(tmp_path / ("x" * 300))


def test_precious_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "me"
    work = tmp_path / "work" / "project"
    home.mkdir(parents=True)
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(work)
    (tmp_path / "link").symlink_to(home, target_is_directory=True)
    for path in ("/", home, home.parent, "~", ".", "..", work, tmp_path / "link"):
        with pytest.raises(RunFolderError, match="the output folder would be"):
            RunFolder.open_for_training(path, overwrite=True)
    RunFolder.open_for_training("~/runs")
    assert (home / "runs").is_dir()
    finished_run(work / "run")
    monkeypatch.chdir(work / "run")
    RunFolder.open_for_training(".", resume=True)


def test_the_summary_is_strict_json_with_a_schema(tmp_path: Path) -> None:
    folder = RunFolder.open_for_training(tmp_path / "run")
    folder.write_summary(
        {"status": "running", "model": {"name": "订单", "path": Path("a")}, "train": {"train_loss": math.nan}}
    )
    text = folder.summary_path.read_text(encoding="utf-8")
    assert json.loads(text) == {
        "schema": 1,
        "status": "running",
        "model": {"name": "订单", "path": "a"},
        "train": {"train_loss": None},
    }
    assert text.startswith('{\n  "schema": 1,\n  "status": "running"')
    assert "订单" in text
    assert names(folder.path) == ["run.json"]


def test_updates_merge_at_every_depth(tmp_path: Path) -> None:
    folder = RunFolder.open_for_training(tmp_path / "run")
    folder.update(status="running", data={"rows_read": 5, "dropped": {"empty": 1}}, tags=[1, 2])
    again = RunFolder(tmp_path / "run")
    summary = again.update(status="completed", data={"rows_used": 4, "dropped": {"long": 2}}, tags=[3])
    assert summary == {
        "schema": 1,
        "status": "completed",
        "data": {"rows_read": 5, "rows_used": 4, "dropped": {"empty": 1, "long": 2}},
        "tags": [3],
    }
    assert read_summary(folder.path) == read_summary(folder.summary_path) == summary


def test_an_unknown_status_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown status 'done'"):
        RunFolder.open_for_training(tmp_path / "run").update(status="done")


def test_a_summary_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.open_for_training(tmp_path / "run")
    folder.write_summary({"status": "running"})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        folder.update(status="completed")
    assert read_summary(folder.path)["status"] == "running"
    assert names(folder.path) == ["run.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no run.json here"),
        ("{", "cannot be read"),
        ("[]", "was not written by Burnish"),
        ('{"status": "x"}', "was not written by Burnish"),
        ('{"schema": 2}', "schema 2, newer than 1"),
    ],
)
def test_a_summary_that_cannot_be_used_says_why(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=reason):
        read_summary(tmp_path)


def test_too_little_space_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**10, 9 * 10**9, 10**9))
    folder = RunFolder(tmp_path / "not" / "yet" / "there")
    assert folder.free_bytes() == free_bytes(tmp_path) == 10**9
    folder.require_space(10**9)
    with pytest.raises(RunFolderError, match=r"2 checkpoints needs 3\.2 GB, 1\.0 GB are free"):
        folder.require_space(3_200_000_000, "2 checkpoints")
