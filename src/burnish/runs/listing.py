"""Looking back: the runs below a folder, and one run in full. Reads only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.log import clock
from burnish.runs.charts import loss_chart
from burnish.runs.checkpoints import checkpoint_step, list_checkpoints
from burnish.runs.evaluations import read_evaluation, result_lines
from burnish.runs.folder import RunFolder, read_summary
from burnish.runs.lock import is_held
from burnish.runs.metrics import MetricsLog
from burnish.runs.monitor import mean_figures
from burnish.runs.preflight import EVAL, EVAL_PAGE, JUDGE_PAGE, LOG, LOSS_PLOT, METRICS, SUMMARY, is_own_file
from burnish.runs.tables import count, narrowed, number, part, phrase, spent, table, whole

DEPTH = 6  # levels of sub-folders in which runs are looked for
_SKIPPED = {"node_modules", "site-packages", "__pycache__"}
_LAST_LINES = 6
_SILENT_S = 120.0  # a run that wrote nothing for this long is said to be silent


def list_runs(root: str | os.PathLike[str], now: float | None = None) -> list[dict[str, Any]]:
    """Every run at or below a folder, the one that wrote last first.

    Hidden folders, checkpoints and installed packages are not searched. A `run.json` that cannot be used
    gives an entry with status `broken` and the `problem`.

    Args:
        root: the folder to search; one that does not exist has no runs.
        now: seconds since the epoch, for tests.
    Returns:
        One dict a run: path, status (`died` for one that says it is running and has no process any more), silent (it
        says it is running, but wrote nothing for two minutes), model, stage, steps (done so far), train_loss,
        eval_loss, runtime_s, problem, and age_s, the seconds since the run wrote something. What a run does not tell
        is None.
    """
    now = time.time() if now is None else now
    return sorted((_entry(folder, now) for folder in _run_folders(Path(root))), key=lambda run: run["age_s"])


SORTS = {
    "newest": "age_s",
    "name": "path",
    "status": "status",
    "steps": "steps",
    "loss": "train_loss",
    "eval": "eval_loss",
    "time": "runtime_s",
}
"""What `burnish runs list --sort` takes → the figure; the smallest stands first, runs without it last."""


def sorted_runs(runs: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The runs ordered by one of `SORTS`."""
    return sorted(runs, key=lambda run: (run[SORTS[by]] is None, run[SORTS[by]]))


def render_runs(
    runs: Sequence[Mapping[str, Any]], root: str | os.PathLike[str] | None = None, width: int | None = None
) -> str:
    """`list_runs` as a table, with what is wrong with broken runs below it.

    Args:
        root: paths are shown relative to it where they lie below it.
        width: columns of the terminal; where they are few, the less telling columns are left out.
    """
    if not runs:
        return "no runs here"
    rows = [["run", "status", "stage", "model", "steps", "train loss", "eval loss", "time", "last written"]]
    for run in runs:
        rows.append(
            [
                _relative(Path(run["path"]), root),
                "silent" if run["silent"] else run["status"],
                *(str(run[key]) if run[key] is not None else "-" for key in ("stage", "model", "steps")),
                *(number(run[key]) for key in ("train_loss", "eval_loss")),
                spent(run["runtime_s"]),
                f"{clock(run['age_s'])} ago",
            ]
        )
    text = table(narrowed(rows, width, ["stage", "time", "model", "last written", "steps"]), width)
    problems = [f"{_relative(Path(run['path']), root)}: {run['problem']}" for run in runs if run["problem"]]
    return "\n\n".join([text, *(["\n".join(problems)] if problems else [])])


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
    rows = folder.metrics.read()
    lines += _about(summary)
    lines.append(("machine", _machine(mean_figures(rows))))
    lines += [("evaluated" if not place else "", line) for place, line in enumerate(_evaluated(folder.path))]
    lines.append(("files", _files(folder.path)))
    label = max(len(name) for name, _ in lines)
    text = "\n".join(f"{name:<{label}}  {value}" for name, value in lines if value)
    return f"{text}\n\n{loss_chart(rows, width)}" if rows else f"{text}\n\nnothing was logged yet"


def show_json(path: str | os.PathLike[str], now: float | None = None) -> dict[str, Any]:
    """One run as plain values: run.json, and path, age_s, checkpoints, evaluation (eval.json, or None), how many rows
    were logged, and the last one.

    Raises:
        RunFolderError: no run here, or its `run.json` cannot be read.
    """
    folder = RunFolder(path)
    summary, rows = read_summary(folder.path), folder.metrics.read()
    return {
        **summary,
        "path": str(folder.path),
        "age_s": round(_age_s(folder.path, time.time() if now is None else now), 1),
        "checkpoints": [found.name for found in list_checkpoints(folder.path)],
        "evaluation": read_evaluation(folder.path),
        "rows": len(rows),
        "last_row": rows[-1] if rows else None,
    }


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
        "silent": False,
        "age_s": _age_s(folder, now),
        "problem": None,
    }
    summary: dict[str, Any] = {}
    try:
        summary = read_summary(folder)
        entry["status"] = "died" if _has_died(folder, summary) else str(summary.get("status", "unknown"))
        entry["silent"] = entry["status"] == "running" and entry["age_s"] > _SILENT_S
    except RunFolderError as error:
        entry["problem"] = error.what
    train = part(summary, "train")
    if train.get("steps") is None:  # it has not come to its end
        train = {**train, "steps": _last_step(folder)}
    name = part(summary, "model").get("name")
    return {
        **entry,
        "model": None if name is None else Path(str(name)).name or str(name),
        "stage": part(summary, "settings").get("stage"),
        **{key: train.get(key) for key in ("steps", "train_loss", "eval_loss", "runtime_s")},
    }


def _last_step(folder: Path) -> int | None:
    rows = MetricsLog(folder / METRICS).read()
    step = rows[-1].get("step") if rows else None
    return step if isinstance(step, int) else None


def _machine(figures: Mapping[str, float]) -> str:
    """What the monitor saw, in words: `CPU 85 %, 5,001 MB of memory in use, GPU 93 % at 310 W`."""
    gpu = phrase(figures, "GPU {} %", "gpu_percent", whole) + phrase(figures, " at {} W", "gpu_power_w", whole)
    return _join(
        phrase(figures, "CPU {} % busy", "cpu_percent", whole),
        phrase(figures, "{} MB of memory in use", "memory_used_mb", whole),
        gpu.strip(),
        phrase(figures, "{} MB of GPU memory in use", "gpu_memory_mb", whole),
    )


def _about(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, data, training and memory, a line each; empty where the run does not tell."""
    model, data = part(summary, "model"), part(summary, "data")
    train, memory = part(summary, "train"), part(summary, "memory")
    parameters = phrase(model, "{} parameters", "parameters", count)
    trainable = phrase(model, "{} trainable", "trainable", count)
    used = phrase(data, "{} rows used", "rows_used", count) + phrase(data, " of {}", "rows_read", count)
    dropped = [f"{count} {reason}" for reason, count in part(data, "dropped").items() if count]
    return [
        ("model", _join(model.get("name"), parameters, trainable, model.get("dtype"))),
        ("data", _join(used, phrase(data, "{} tokens", "tokens", count),
                       phrase(data, "{} supervised", "supervised_tokens", count))),
        ("dropped", _join(*dropped)),
        ("train", _join(phrase(train, "{} steps", "steps", count), phrase(train, "{}", "runtime_s", spent),
                        phrase(train, "{} tokens/s", "tokens_per_second", whole))),
        ("loss", _join(phrase(train, "train {}", "train_loss", number),
                       phrase(train, "eval {}", "eval_loss", number))),
        ("memory", _join(phrase(memory, "peak {} MB", "peak_rss_mb", whole),
                         phrase(memory, "GPU peak {} MB", "peak_gpu_mb", whole))),
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


def _evaluated(folder: Path) -> list[str]:
    """What `burnish eval` found of a run, a line each."""
    found = read_evaluation(folder)
    return result_lines(found) if found else []


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
    fixed = [
        name for name in (SUMMARY, METRICS, LOSS_PLOT, LOG, EVAL, EVAL_PAGE, JUDGE_PAGE) if (folder / name).exists()
    ]
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


def _join(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)


def _relative(path: Path, root: str | os.PathLike[str] | None) -> str:
    if root is None:
        return str(path)
    here = Path(root)
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)
