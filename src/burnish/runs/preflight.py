"""May a run use this folder? Checks that touch nothing, and the names of the files that runs write."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from burnish.errors import RunFolderError
from burnish.log import note
from burnish.runs.checkpoints import checkpoint_step
from burnish.runs.files import is_disk_full

SUMMARY, METRICS, LOSS_PLOT, LOG = "run.json", "metrics.jsonl", "loss.png", "log.txt"
EVAL, EVAL_PAGE, EVAL_ANSWERS = "eval.json", "eval.html", "eval_answers.jsonl"  # what evaluations of the run found
JUDGE_PAGE, JUDGE_REPLIES = "judge.html", "judge.jsonl"  # and what a judge said of its answers
TRACKER_IDS = "trackers.json"  # under which ids experiment trackers know the run
EVENTS = "tensorboard/events.out.tfevents.*"  # TensorBoard's files

# What a run writes in its folder, checkpoints apart; overwriting deletes these names and no others.
OWN_FILES = frozenset(
    {
        *(SUMMARY, METRICS, LOSS_PLOT, LOG, TRACKER_IDS, EVAL, EVAL_PAGE, EVAL_ANSWERS, JUDGE_PAGE),
        JUDGE_REPLIES,
        *("adapter_config.json", "adapter_model.safetensors"),
        *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        # Of certain stages and bases: left behind, they would tell a wrong thing of the next run.
        *("value_head.safetensors", "critic_head.safetensors", "burnish_base.json", "burnish_merged.json"),
        *("rewards.png", "completions.md", "nonfinite_rows.jsonl"),
        *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja"),
    }
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_HARMLESS = {LOG}  # appended to, never replaced


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes free for this user on the disk of a path, or of its nearest folder that exists."""
    place = Path(os.path.abspath(path))
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def gigabytes(count: float) -> str:
    """Bytes as people read them: `3.2 GB`, `12.0 MB`; powers of ten, as disks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def is_own_file(path: Path) -> bool:
    """Whether a path is a file, or a link, under a name that runs write."""
    named = path.name in OWN_FILES or _SHARD.fullmatch(path.name) is not None
    return named and (path.is_file() or path.is_symlink())


def own_weights(folder: Path) -> list[str]:
    """The names of the weight files of a run in a folder."""
    return [path.name for path in folder.glob("*.safetensors") if is_own_file(path)]


def refuse_precious_places(path: Path, resumes: bool) -> None:
    """Raise for the root, the home folder or one above it; for the current folder unless a run resumes."""
    real = path.resolve()
    fix = "name a folder of its own, such as `output_dir: runs/first`"
    home = Path(os.path.expanduser("~")).resolve()
    if real == Path(real.anchor) or real == home or (real in home.parents):
        raise RunFolderError("the output folder would be the disk's root or the home folder", at=str(path), fix=fix)
    here = Path.cwd().resolve()
    if not resumes and (real == here or real in here.parents):
        raise RunFolderError("the output folder would be the current folder or one above it", at=str(path), fix=fix)


def require_writable(path: Path) -> None:
    """Try to write where the folder is or will be, leaving nothing behind."""
    place = path
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # a name that no disk takes, or a folder that hides it
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise RunFolderError(
                "the output folder cannot be made: a file is in the way",
                at=str(place),
                fix="name another `output_dir`, or move that file away",
            )
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        full = is_disk_full(error)
        raise RunFolderError(
            f"the output folder is not writable: {reason}",
            at=str(place),
            fix="free some space" if full else "name an `output_dir` in which this user may write",
        ) from error


def create_folder(path: Path) -> None:
    """Make a folder and those above it. Raises RunFolderError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"the output folder cannot be made: {error.strerror or error}",
            at=str(path),
            fix="name an `output_dir` in which this user may write",
        ) from error


def refuse_to_replace_inputs(path: Path, inputs: Collection[str | os.PathLike[str]]) -> None:
    """An input may lie in the output folder only under a name that no run writes or deletes."""
    folder = path.resolve()
    for given in inputs:
        place = Path(os.path.expanduser(given))
        if not os.path.exists(place):
            continue
        real = place.resolve()
        inside = real.relative_to(folder).parts if real.is_relative_to(folder) else None
        if inside is None:
            continue
        first = folder / inside[0] if inside else folder
        if not inside or is_own_file(first) or checkpoint_step(first) is not None:
            raise RunFolderError(
                "the run would write over a model or data that it reads",
                at=str(given),
                fix="name another `output_dir`",
            )


def refuse_to_replace_files(path: Path) -> None:
    """A folder without a run may hold anything but files that this run would replace."""
    if not path.is_dir():
        return
    names = sorted(item.name for item in path.iterdir() if is_own_file(item) and item.name not in _HARMLESS)
    if names:
        raise RunFolderError(
            f"the output folder holds no run, but files that this run would replace: {', '.join(names)}",
            at=str(path),
            fix="name another `output_dir`, or move these files away",
        )


def checkpoint_is_inside(folder: Path, resume: str) -> bool:
    """Whether the checkpoint to go on from belongs to this folder's run."""
    place = Path(os.path.expanduser(resume))
    if not place.is_dir():
        raise RunFolderError(
            "the checkpoint to resume from does not exist",
            at=f"resume_from_checkpoint: {resume}",
            fix="name a `checkpoint-N` folder, or `resume_from_checkpoint: true` for the newest one",
        )
    inside = place.resolve().is_relative_to(folder.resolve())
    if not inside:
        note(f"going on from {place.name} of another run; this run's folder is {folder}")
    return inside
