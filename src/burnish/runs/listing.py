"""Looking back: the runs below a folder, one run in full, several side by side. Reads only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.log import clock
from burnish.runs.checkpoints import checkpoint_step, list_checkpoints
from burnish.runs.folder import RunFolder, read_summary
from burnish.runs.lock import is_held
from burnish.runs.plots import loss_chart
from burnish.runs.preflight import LOG, LOSS_PLOT, METRICS, SUMMARY, is_own_file

DEPTH = 6  # levels of sub-folders in which runs are looked for
_SKIPPED = {"node_modules", "site-packages", "__pycache__"}
_LAST_LINES = 6
_SILENT_S = 120.0  # a run that wrote nothing for this long is said to be silent

# The figures of run.json that runs are compared by: part, name, title, how to write it.
_FIGURES: tuple[tuple[str, str, str, Callable[[Any], str]], ...]


def list_runs(root: str | os.PathLike[str], now: float | None = None) -> list[dict[str, Any]]:
    """Every run at or below a folder, the one that wrote last first.

    Hidden folders, checkpoints and installed packages are not searched. A `run.json` that cannot be used
    gives an entry with status `broken` and the `problem`.

    Args:
        root: the folder to search; one that does not exist has no runs.
        now: seconds since the epoch, for tests.
    Returns:
        One dict a run: path, status (`died` for one that says it is running and has no process any more), model,
        stage, steps, train_loss, eval_loss, runtime_s, problem, and age_s, the seconds since the run wrote
        something. What a run does not tell is None.
    """
    now = time.time() if now is None else now
    return sorted((_entry(folder, now) for folder in _run_folders(Path(root))), key=lambda run: run["age_s"])


def render_runs(runs: Sequence[Mapping[str, Any]], root: str | os.PathLike[str] | None = None) -> str:
    """`list_runs` as a table; paths are shown relative to `root` where they lie below it."""
    if not runs:
        return "no runs here"
    rows = [["run", "status", "model", "steps", "train loss", "eval loss", "time", "last written"]]
    for run in runs:
        rows.append(
            [
                _relative(Path(run["path"]), root),
                run["status"] if not run["problem"] else f"{run['status']}: {run['problem']}",
                *(str(run[key]) if run[key] is not None else "-" for key in ("model", "steps")),
                *(_number(run[key]) for key in ("train_loss", "eval_loss")),
                _time(run["runtime_s"]),
                f"{clock(run['age_s'])} ago",
            ]
        )
    return _table(rows)


def show_run(path: str | os.PathLike[str], width: int = 72, now: float | None = None) -> str:
    """One run for people: how it ended, on what data, its figures, its files and the loss curve.

    Args:
        path: the run folder.
        width: columns of the loss curve.
        now: seconds since the epoch, for tests.
    Raises:
        RunFolderError: no run here, or its `run.json` cannot be read.
    """
    folder = RunFolder(path)
    summary = read_summary(folder.path)
    lines = [("run", str(folder.path)), ("status", _status(folder.path, summary, now))]
    if error := summary.get("error"):
        lines.append(("error", _error_text(error)))
    if (summary.get("status") == "failed" or _has_died(folder.path, summary)) and (words := _last_words(folder.path)):
        lines.append(("log ends", words))
    lines += _about(summary)
    lines.append(("files", _files(folder.path)))
    label = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name:<{label}}  {value}" for name, value in lines if value)
    rows = folder.metrics.read()
    return f"{text}\n\n{loss_chart(rows, width)}" if rows else f"{text}\n\nnothing was logged yet"


def compare_runs(paths: Sequence[str | os.PathLike[str]]) -> str:
    """Several runs side by side: the settings in which they differ, then their figures.

    Raises:
        RunFolderError: a path holds no run that can be read.
    """
    folders = [Path(path) for path in paths]
    summaries = [read_summary(folder) for folder in folders]
    names = _short_names(folders)
    settings = [_flat(_part(summary, "settings")) for summary in summaries]
    keys = sorted({key for one in settings for key in one if key != "output_dir"})
    rows = [["setting", *names]]
    for key in keys:
        values = [_setting(one[key]) if key in one else "-" for one in settings]
        if len(set(values)) > 1:
            rows.append([key, *values])
    text = _table(rows) if len(rows) > 1 else "the settings are the same"
    figures = [["figure", *names], ["status", *(str(one.get("status", "-")) for one in summaries)]]
    for part, name, title, write in _FIGURES:
        found = [_part(summary, part).get(name) for summary in summaries]
        if any(value is not None for value in found):
            figures.append([title, *(write(value) for value in found)])
    return f"{text}\n\n{_table(figures)}"


def _run_folders(root: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        here = Path(place)
        if SUMMARY in files:
            yield here
        if len(here.relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and checkpoint_step(here / name) is None
        )


def _entry(folder: Path, now: float) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "path": str(folder),
        "status": "broken",
        "age_s": _age_s(folder, now),
        "problem": None,
    }
    summary: dict[str, Any] = {}
    try:
        summary = read_summary(folder)
        entry["status"] = "died" if _has_died(folder, summary) else str(summary.get("status", "unknown"))
    except RunFolderError as error:
        entry["problem"] = error.what
    train = _part(summary, "train")
    return {
        **entry,
        "model": _part(summary, "model").get("name"),
        "stage": _part(summary, "settings").get("stage"),
        **{key: train.get(key) for key in ("steps", "train_loss", "eval_loss", "runtime_s")},
    }


def _about(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, data, training and memory, a line each; empty where the run does not tell."""
    model, data = _part(summary, "model"), _part(summary, "data")
    train, memory = _part(summary, "train"), _part(summary, "memory")
    parameters = _phrase(model, "{} parameters", "parameters", _count)
    trainable = _phrase(model, "{} trainable", "trainable", _count)
    used = _phrase(data, "{} rows used", "rows_used", _count) + _phrase(data, " of {}", "rows_read", _count)
    dropped = [f"{count} {reason}" for reason, count in _part(data, "dropped").items() if count]
    return [
        ("model", _join(model.get("name"), parameters, trainable, model.get("dtype"))),
        ("data", _join(used, _phrase(data, "{} tokens", "tokens", _count),
                       _phrase(data, "{} supervised", "supervised_tokens", _count))),
        ("dropped", _join(*dropped)),
        ("train", _join(_phrase(train, "{} steps", "steps", _count), _phrase(train, "{}", "runtime_s", _time),
                        _phrase(train, "{} tokens/s", "tokens_per_second", _whole))),
        ("loss", _join(_phrase(train, "train {}", "train_loss", _number),
                       _phrase(train, "eval {}", "eval_loss", _number))),
        ("memory", _join(_phrase(memory, "peak {} MB", "peak_rss_mb", _whole),
                         _phrase(memory, "GPU peak {} MB", "peak_gpu_mb", _whole))),
    ]  # fmt: skip


def _status(folder: Path, summary: Mapping[str, Any], now: float | None) -> str:
    status = str(summary.get("status", "unknown"))
    age = _age_s(folder, time.time() if now is None else now)
    if _has_died(folder, summary):
        return f"died without a word {clock(age)} ago: killed (exit code 137 or -9), or the machine went down"
    if status == "running" and age > _SILENT_S:
        return f"running, but silent for {clock(age)}: it may {'hang' if is_held(folder) else 'have died'}"
    code = summary.get("exit_code")
    return f"{status} with exit code {code}" if status == "failed" and code is not None else status


def _has_died(folder: Path, summary: Mapping[str, Any]) -> bool:
    """Whether a run that says it is running has no process any more; the system knows, where it can be asked."""
    return summary.get("status") == "running" and is_held(folder) is False


def _last_words(folder: Path) -> str:
    """The end of a run's log."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n    ".join(["", *lines[-_LAST_LINES:]]) if lines else ""


def _error_text(error: Any) -> str:
    if isinstance(error, Mapping):
        return ": ".join(str(error[key]) for key in ("type", "message", "what") if error.get(key)) or str(dict(error))
    return str(error)


def _files(folder: Path) -> str:
    fixed = [name for name in (SUMMARY, METRICS, LOSS_PLOT, LOG) if (folder / name).exists()]
    weights = sorted(path.name for path in folder.glob("*.safetensors") if is_own_file(path))
    checkpoints = [f"{path.name}/" for path in list_checkpoints(folder)]
    return ", ".join([*weights, *fixed, *checkpoints])


def _age_s(folder: Path, now: float) -> float:
    """Seconds since the run last wrote one of its files, 0 or more."""
    times = []
    for name in (SUMMARY, METRICS, LOG):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(0.0, now - max(times, default=now))


def _part(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = summary.get(name)
    return part if isinstance(part, Mapping) else {}


def _phrase(part: Mapping[str, Any], text: str, key: str, write: Callable[[Any], str]) -> str:
    return text.format(write(part[key])) if part.get(key) is not None else ""


def _join(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have the same name."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _relative(path: Path, root: str | os.PathLike[str] | None) -> str:
    if root is None:
        return str(path)
    here = Path(root)
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)


def _setting(value: Any) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _whole(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _time(value: Any) -> str:
    return clock(value) if isinstance(value, int | float) else "-"


_FIGURES = (
    ("train", "train_loss", "train loss", _number),
    ("train", "eval_loss", "eval loss", _number),
    ("train", "steps", "steps", _whole),
    ("train", "runtime_s", "time", _time),
    ("train", "tokens_per_second", "tokens/s", _whole),
    ("train", "samples_per_second", "samples/s", _number),
    ("memory", "peak_rss_mb", "peak memory, MB", _whole),
    ("memory", "peak_gpu_mb", "peak GPU memory, MB", _whole),
    ("model", "trainable", "trainable parameters", _whole),
    ("data", "rows_used", "rows used", _whole),
    ("data", "tokens", "tokens", _whole),
    ("data", "supervised_tokens", "supervised tokens", _whole),
)
