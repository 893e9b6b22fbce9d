"""Checkpoint folders that are complete or absent, whatever kills the process while they are written.

A checkpoint is written to a hidden folder aside, described by a manifest (size and SHA-256 of every file),
flushed and only then renamed to `checkpoint-N`. Deleting and replacing go through a rename as well, so that
no half-deleted folder ever carries a checkpoint's name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.log import note
from burnish.runs.files import fsync_folder, is_disk_full, settle_file, write_atomically

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1

_NAME = re.compile(r"checkpoint-(\d+)")
_ASIDE = re.compile(r"\.checkpoint-(\d+)\.(tmp|old)-[0-9a-f-]+")

# Manifests that this process wrote, as (inode, size, mtime): rotation need not hash those folders again.
_written_here: dict[Path, tuple[int, int, int]] = {}


def checkpoint_step(path: Path) -> int | None:
    """The optimizer step in a checkpoint folder's name, or None when the name is not `checkpoint-N`."""
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else None


def list_checkpoints(parent: Path) -> list[Path]:
    """All folders named `checkpoint-N` in a run folder, complete or not, lowest step first."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if checkpoint_step(path) is not None and path.is_dir()]
    return sorted(found, key=lambda path: (checkpoint_step(path) or 0, path.name))


def write_checkpoint(parent: Path, step: int, writer: Callable[[Path], None]) -> Path:
    """Write `checkpoint-<step>`: complete when this returns, absent (or the previous one) when it raises.

    Args:
        parent: the run folder; must exist.
        step: optimizer steps done, >= 0.
        writer: is given an empty folder and writes all files of the checkpoint into it, also in sub-folders.
    Returns:
        The path of the complete checkpoint.
    Raises:
        RunFolderError: the disk is full; earlier checkpoints are untouched.
        ValueError: the writer wrote nothing, or a file named `manifest.json`.
        Exception: whatever the writer raises; nothing of the new checkpoint is left behind.
    """
    if step < 0:
        raise ValueError(f"a checkpoint's step must be 0 or more, not {step}")
    final = parent / f"checkpoint-{step}"
    aside = parent / f".checkpoint-{step}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        os.mkdir(aside)
        writer(aside)
        _seal(aside, step)
        _move_into_place(aside, final)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, Exception) and is_disk_full(error):
            raise RunFolderError(
                f"the disk is full: {final.name} could not be saved; earlier checkpoints are intact",
                at=str(parent),
                fix="free some space, then go on with `resume_from_checkpoint: true`; "
                "a smaller `save_total_limit` keeps fewer checkpoints",
            ) from error
        raise
    _written_here[final.resolve()] = _stamp(final / MANIFEST)
    return final


def verify(path: Path, *, hashes: bool = True) -> list[str]:
    """What is wrong with a checkpoint folder, one sentence each; empty when it is complete and unchanged.

    Files that the manifest does not name are ignored.

    Args:
        path: a `checkpoint-N` folder.
        hashes: also compare the SHA-256 of every file, which reads all of them; False compares sizes only.
    """
    if not path.is_dir():
        return ["no such folder"]
    manifest, problem = _read_manifest(path)
    if manifest is None:
        return [problem]
    found = ((name, _file_problem(path, name, facts, hashes)) for name, facts in manifest["files"].items())
    return [f"{name}: {problem}" for name, problem in found if problem]


def newest_complete(parent: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The checkpoint to resume from: the highest step whose every file is as it was saved.

    A checkpoint that was being replaced when the process died is put back first.

    Returns:
        The folder, or None when there is none; and the newer folders passed over, each with the reason.
    """
    _restore_displaced(parent)
    skipped: list[tuple[Path, str]] = []
    for path in reversed(list_checkpoints(parent)):
        problems = verify(path)
        if not problems:
            return path, skipped
        skipped.append((path, "; ".join(problems)))
    return None, skipped


def rotate(parent: Path, keep: int | None, protect: Collection[Path] = ()) -> list[Path]:
    """Delete the oldest checkpoints beyond `keep`; never the newest complete one, nor a protected one.

    Folders named `checkpoint-N` without our manifest are not ours: they are neither counted nor deleted. A
    folder that cannot be deleted is noted and left.

    Args:
        parent: the run folder.
        keep: how many of the newest to keep; None or 0 and below keeps all of them.
        protect: folders to keep besides, such as the best one or the one that was resumed from.
    Returns:
        The folders that were deleted.
    """
    if keep is None or keep <= 0:
        return []
    ours = [path for path in list_checkpoints(parent) if (path / MANIFEST).is_file()]
    anchor = next((path for path in reversed(ours) if _is_complete(path)), None)
    if anchor is None:
        return []
    whole = [path for path in ours if not verify(path, hashes=False)]
    kept = {path.resolve() for path in [anchor, *whole[-keep:], *protect]}
    removed = []
    for path in ours:
        if path.resolve() in kept:
            continue
        try:
            remove_checkpoint(path)
            removed.append(path)
        except OSError as error:
            note(f"could not delete the old checkpoint {path.name}: {error.strerror or error}")
    return removed


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint folder, first taking its name away. A link is only unlinked. Raises OSError."""
    _written_here.pop(path.resolve(), None)
    if path.is_symlink():
        path.unlink()
        return
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    os.rename(path, aside)
    shutil.rmtree(aside)


def clean_leftovers(parent: Path) -> list[Path]:
    """Remove what a killed process left aside, and put back a checkpoint that was just being replaced.

    Call it only while no other process writes checkpoints into this folder.

    Returns:
        The folders that were removed.
    """
    _restore_displaced(parent)
    removed = []
    for path in _asides(parent):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            removed.append(path)
    return removed


def _seal(folder: Path, step: int) -> None:
    """Flush every file, then write the manifest that describes them."""
    names = []
    for root, _, files in os.walk(folder):
        names += [(Path(root) / file).relative_to(folder).as_posix() for file in files]
    if MANIFEST in names:
        raise ValueError(f"a checkpoint's writer must not write {MANIFEST}")
    if not names:
        raise ValueError("a checkpoint's writer wrote no file")
    facts = {}
    for name in sorted(names):
        settle_file(folder / name)
        facts[name] = {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
    content = {"schema": MANIFEST_SCHEMA, "step": step, "files": facts}
    for root, _, _ in os.walk(folder, topdown=False):
        fsync_folder(Path(root))
    write_atomically(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def _move_into_place(aside: Path, final: Path) -> None:
    """Rename to the final name; a checkpoint that is already there steps aside and comes back on failure."""
    if not (final.exists() or final.is_symlink()):
        os.rename(aside, final)
        fsync_folder(final.parent)
        return
    displaced = final.with_name(f".{final.name}.old-{os.getpid()}-{secrets.token_hex(4)}")
    os.rename(final, displaced)
    try:
        os.rename(aside, final)
    except BaseException:
        os.rename(displaced, final)
        raise
    fsync_folder(final.parent)
    if displaced.is_symlink():
        displaced.unlink()
    else:
        shutil.rmtree(displaced, ignore_errors=True)


def _restore_displaced(parent: Path) -> None:
    for path in _asides(parent):
        match = _ASIDE.fullmatch(path.name)
        if match is None or match.group(2) != "old":
            continue
        final = parent / f"checkpoint-{match.group(1)}"
        if not final.exists():
            os.rename(path, final)


def _asides(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if _ASIDE.fullmatch(path.name) and path.is_dir())


def _read_manifest(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The manifest, or None and the reason why it cannot be used."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, f"{MANIFEST}: missing (not saved by Burnish, or not completely)"
    except (OSError, ValueError) as error:
        return None, f"{MANIFEST}: unreadable ({error})"
    if not isinstance(manifest, dict) or manifest.get("schema") != MANIFEST_SCHEMA:
        return None, f"{MANIFEST}: not a manifest of schema {MANIFEST_SCHEMA}"
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        return None, f"{MANIFEST}: names no files"
    if not all(isinstance(facts, dict) and {"size", "sha256"} <= facts.keys() for facts in files.values()):
        return None, f"{MANIFEST}: a file without size and SHA-256"
    return manifest, ""


def _file_problem(folder: Path, name: str, facts: dict[str, Any], hashes: bool) -> str:
    """What is wrong with one file of a manifest; empty when nothing is."""
    if not _stays_inside(name):
        return "the manifest names a file outside the checkpoint"
    file = folder / name
    if not file.is_file():
        return "missing"
    if (size := file.stat().st_size) != facts["size"]:
        return f"{size} bytes instead of {facts['size']}"
    try:
        changed = hashes and _sha256(file) != facts["sha256"]
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return "the content changed after it was saved (SHA-256 differs)" if changed else ""


def _stays_inside(name: str) -> bool:
    path = Path(name)
    return not path.anchor and ".." not in path.parts


def _is_complete(path: Path) -> bool:
    """Whether a checkpoint is whole; trusts the hashes of one that this very process wrote."""
    known = _written_here.get(path.resolve())
    return not verify(path, hashes=known is None or known != _stamp(path / MANIFEST))


def _stamp(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
