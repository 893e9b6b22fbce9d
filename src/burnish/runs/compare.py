"""Several runs side by side: the settings in which they differ, their figures and their curves. Reads only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import RunFolderError
from burnish.runs.curves import Curve, read_curve
from burnish.runs.folder import read_summary
from burnish.runs.listing import list_runs
from burnish.runs.metrics import MetricsLog
from burnish.runs.monitor import mean_figures
from burnish.runs.plots import last_tenth
from burnish.runs.preflight import METRICS, SUMMARY
from burnish.runs.tables import Cells, markdown, number, part, spent, table, whole

_FIGURES: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("train", "train_loss", "train loss", number),
    ("rows", "last_tenth_loss", "train loss, last tenth", number),
    ("train", "eval_loss", "eval loss", number),
    ("rows", "lowest_eval_loss", "eval loss, lowest", number),
    ("train", "steps", "steps", whole),
    ("train", "runtime_s", "time", spent),
    ("train", "tokens_per_second", "tokens/s", whole),
    ("train", "samples_per_second", "samples/s", number),
    ("memory", "peak_rss_mb", "peak memory, MB", whole),
    ("memory", "peak_gpu_mb", "peak GPU memory, MB", whole),
    ("rows", "gpu_percent", "GPU use, mean %", whole),
    ("rows", "gpu_power_w", "GPU power, mean W", whole),
    ("model", "parameters", "parameters", whole),
    ("model", "trainable", "trainable parameters", whole),
    ("model", "footprint_mb", "weights, MB", whole),
    ("data", "rows_used", "rows used", whole),
    ("data", "tokens", "tokens", whole),
    ("data", "supervised_tokens", "supervised tokens", whole),
)
"""What runs are compared by: part of run.json (or `rows`, from metrics.jsonl), name, title, how it is written."""


@dataclass(frozen=True)
class Compared:
    """One run of a comparison.

    Attributes:
        name: short, and different from the other runs' names.
        settings: flat; nested ones with dots.
        figures: by the names of run.json, those of `rows` included; only what the run tells.
        rows: metrics.jsonl.
    """

    name: str
    path: Path
    status: str
    settings: dict[str, Any]
    figures: dict[str, Any]
    rows: list[dict[str, Any]]

    def curve(self, metric: str = "loss", by: str = "step") -> Curve:
        return read_curve(self.name, self.rows, metric, by)


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Compared]:
    """The runs in these folders, in this order; a folder that holds no run itself stands for all runs below it.

    Raises:
        RunFolderError: a folder has no run, one cannot be read, or there is only one run.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        below = [] if (path / SUMMARY).exists() else [run for run in list_runs(path) if not run["problem"]]
        folders += sorted(Path(run["path"]) for run in below) or [path]
    summaries = [read_summary(folder) for folder in folders]
    if len(folders) < 2:
        raise RunFolderError(
            "one run alone cannot be compared",
            at=str(folders[0]),
            fix=f"name another one, or a folder with several; `burnish runs show {folders[0]}` shows this one",
        )
    runs = []
    for name, folder, summary in zip(short_names(folders), folders, summaries, strict=True):
        rows = MetricsLog(folder / METRICS).read()
        parts = {key: part(summary, key) for key in ("train", "memory", "model", "data")} | {"rows": _from_rows(rows)}
        figures = {key: parts[place].get(key) for place, key, _, _ in _FIGURES}
        runs.append(
            Compared(
                name,
                folder,
                str(summary.get("status", "unknown")),
                _flat(part(summary, "settings")),
                {key: value for key, value in figures.items() if value is not None},
                rows,
            )
        )
    return runs


def differing_settings(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, each with one value a run; None where a run has none."""
    keys = sorted({key for run in runs for key in run.settings} - {"output_dir", "run_name"})
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def compare_runs(runs: Sequence[Compared], width: int | None = None) -> str:
    """Both tables as text, at most `width` columns wide."""
    settings, figures = _tables(runs)
    first = table(settings, width) if len(settings) > 1 else "the settings are the same"
    return f"{first}\n\n{table(figures, width)}"


def compare_markdown(runs: Sequence[Compared], picture: str | None = None) -> str:
    """Both tables as Markdown, with the picture of the curves where one was drawn."""
    settings, figures = _tables(runs)
    parts = [markdown(settings)] if len(settings) > 1 else []
    parts.append(markdown(figures))
    parts += [f"![the curves of these runs]({picture.replace(' ', '%20')})"] if picture else []
    return "\n\n".join(parts)


def compare_json(runs: Sequence[Compared], metric: str = "loss", by: str = "step") -> dict[str, Any]:
    """All of it as plain values: settings that differ, figures, and the points of the curves."""
    curves = [run.curve(metric, by) for run in runs]
    return {
        "settings": {
            key: dict(zip([run.name for run in runs], values, strict=True))
            for key, values in differing_settings(runs).items()
        },
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "status": run.status,
                "figures": run.figures,
                "curve": {"metric": metric, "by": by, "train": curve.train, "eval": curve.evals},
            }
            for run, curve in zip(runs, curves, strict=True)
        ],
    }


def metrics_of(runs: Sequence[Compared]) -> list[str]:
    """The columns of metrics.jsonl that curves can show, sorted."""
    names = {key for run in runs for row in run.rows for key, value in row.items() if isinstance(value, int | float)}
    return sorted(names - {"step", "epoch", "elapsed_s"})


def _tables(runs: Sequence[Compared]) -> tuple[Cells, Cells]:
    names = [run.name for run in runs]
    settings = [["setting", *names]]
    settings += [[key, *map(_setting, values)] for key, values in differing_settings(runs).items()]
    figures = [["figure", *names], ["status", *(run.status for run in runs)]]
    for _, key, title, write in _FIGURES:
        found = [run.figures.get(key) for run in runs]
        if any(value is not None for value in found):
            figures.append([title, *map(write, found)])
    return settings, figures


def _from_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures that run.json does not hold."""
    curve = read_curve("", rows)
    figures: dict[str, Any] = {}
    if len(curve.train) > 1:
        figures["last_tenth_loss"] = last_tenth(curve.train)
    if len(curve.evals) > 1:
        figures["lowest_eval_loss"] = min(value for _, value in curve.evals)
    return figures | mean_figures(rows)


def short_names(folders: Sequence[Path]) -> list[str]:
    """As many last parts of each path as tell it from the others; the same folder twice is counted."""
    places = [folder.resolve().parts for folder in folders]
    names = []
    for order, parts in enumerate(places):
        others = [other for other in places if other != parts]
        length = next(
            (size for size in range(1, len(parts)) if all(other[-size:] != parts[-size:] for other in others)),
            len(parts),
        )
        again = places[:order].count(parts)
        names.append("/".join(parts[-length:]) + (f" ({again + 1})" if again else ""))
    return names


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _setting(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:20]}…{text[-19:]}"
