"""The curves of several runs over one another: as a picture, and as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from burnish.runs.charts import braille, nice_ticks, padded, place, step_axis
from burnish.runs.plots import (
    FEW,
    TEXT,
    Points,
    Rows,
    drawable,
    font_list_in,
    last_tenth,
    picture,
    quiet_axes,
    smoothed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind people can tell apart; their yellow is too pale for lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)))  # a second and third round of the colours
_ON_TERMINALS = ("bright_blue", "yellow", "bright_green", "magenta", "cyan", "bright_red", "bright_white")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

AXES = {"step": "step", "tokens": "tokens", "time": "elapsed_s", "epoch": "epoch"}
"""What the curves may run over → the column of metrics.jsonl."""
_UNITS = {
    "step": ((1.0, "optimizer step"),),
    "tokens": ((1.0, "tokens"), (1e3, "thousand tokens"), (1e6, "million tokens"), (1e9, "billion tokens")),
    "time": ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours")),
    "epoch": ((1.0, "epoch"),),
}


@dataclass(frozen=True)
class Curve:
    """One run's values of a metric over an axis: in training, and in evaluation (`eval_` before its name)."""

    name: str
    train: Points
    evals: Points


def read_curve(name: str, rows: Rows, metric: str = "loss", by: str = "step") -> Curve:
    """The finite values of a metric in rows of metrics.jsonl; rows without a place on the axis are passed over.

    Args:
        metric: a column, such as `loss`; its evaluation is the column `eval_` + metric.
        by: one of `AXES`.
    """
    return Curve(name, _points(rows, metric, by), _points(rows, f"eval_{metric}", by))


def _points(rows: Rows, metric: str, by: str) -> Points:
    points = []
    for row in rows:
        x = 0.0 if row.get("step") == 0 else row.get(AXES[by])  # before the first step nothing was spent
        value = row.get(metric)
        if _is_finite(x) and _is_finite(value):
            points.append((float(x), float(value)))  # type: ignore[arg-type]
    return sorted(points, key=lambda point: point[0])


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scaled(curves: Sequence[Curve], by: str) -> tuple[list[Curve], str]:
    """The curves in a unit that makes handy numbers, and the words for the axis."""
    longest = max((x for curve in curves for x, _ in curve.train + curve.evals), default=0.0)
    size, words = next((unit for unit in reversed(_UNITS[by]) if longest >= 3 * unit[0]), _UNITS[by][0])

    def shrink(points: Points) -> Points:
        return [(x / size, y) for x, y in points]

    return [Curve(curve.name, shrink(curve.train), shrink(curve.evals)) for curve in curves], words


def plot_curves(
    curves: Sequence[Curve], path: Path, metric: str = "loss", by: str = "step", cache: Path | None = None
) -> bool:
    """Draw the curves of several runs into a PNG, 1500 pixels wide, atomically.

    Each run has a colour: its values in training faint, smoothed over a tenth of the run on top, its evaluations as
    points. The legend stands below the picture, so that it hides no curve.

    Args:
        path: the file; its folder must exist.
        cache: where the plotting library may keep its list of fonts.
    Returns:
        False when there was nothing to draw, and no file was written.
    Raises:
        OSError: the file cannot be written.
    """
    if not any(curve.train or curve.evals for curve in curves):
        return False
    with font_list_in(cache):
        names, families = _names(curves)
    drawn, words = scaled(curves, by)
    labels = [f"{name}: {_in_words(curve, metric)}" for name, curve in zip(names, drawn, strict=True)]
    across = 2 if len(curves) > 3 and max(map(len, labels)) <= 60 else 1
    with picture(path, (10, 5.4 + 0.2 * math.ceil(len(curves) / across)), cache) as figure:
        axes = figure.add_subplot()
        for number, (curve, label) in enumerate(zip(drawn, labels, strict=True)):
            _draw(axes, curve, label, number, faint=0.25 if len(curves) < 5 else 0.12)
        _dress(axes, words, metric)
        legend = figure.legend(
            loc="outside lower left", ncols=across, frameon=False, fontsize=9, labelcolor=TEXT, handlelength=2.6
        )
        for text in legend.get_texts():
            text.set(family=families, parse_math=False)
    return True


def _names(curves: Sequence[Curve]) -> tuple[list[str], list[str]]:
    """The runs' names as far as a font can draw them, with a number where something is lost; and the fonts."""
    names, families = [], ["DejaVu Sans"]
    for number, curve in enumerate(curves, 1):
        short = _short(curve.name)
        text, families = drawable(short, "…")
        names.append(text if text == short else f"run {number} ({text})")
    return names, families


def _draw(axes: Axes, curve: Curve, label: str, number: int, faint: float) -> None:
    colour, dashes = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]
    if curve.train:
        line = smoothed(curve.train)
        if len(curve.train) >= FEW:
            axes.plot(*zip(*curve.train, strict=True), color=colour, linewidth=0.8, alpha=faint)
        (drawn,) = axes.plot(*zip(*line, strict=True), color=colour, linewidth=2.0, linestyle=dashes, label=label)
        if len(line) == 1:
            drawn.set(marker="s", markersize=6)
        label = "_hidden"
    if curve.evals:
        (points,) = axes.plot(*zip(*curve.evals, strict=True), color=colour, linewidth=0.8, linestyle=":", label=label)
        points.set(marker="o", markersize=6, markeredgecolor="white", markeredgewidth=1.0, zorder=5)


def _dress(axes: Axes, words: str, metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(words, color=TEXT)
    title = f"{metric}: smoothed line and single values in training, points in evaluation"
    axes.set_title(title, loc="left", fontsize=10, color=TEXT, pad=8, parse_math=False)
    axes.set_ylabel(metric, color=TEXT, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=words == "optimizer step"))
    quiet_axes(axes, above=0.06)


def _in_words(curve: Curve, metric: str) -> str:
    """`last tenth 0.512, eval 0.498 (lowest 0.490)`; the lowest only of a loss."""
    parts = []
    if curve.train:
        parts.append(f"last tenth {last_tenth(curve.train):.4g}")
    if curve.evals:
        last, best = curve.evals[-1][1], min(value for _, value in curve.evals)
        parts.append(f"eval {last:.4g}" + (f" (lowest {best:.4g})" if best < last and "loss" in metric else ""))
    return ", ".join(parts) or "nothing logged"


def _short(name: str, longest: int = 44) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-(longest // 2) :]}"


def curves_chart(
    curves: Sequence[Curve],
    metric: str = "loss",
    by: str = "step",
    width: int = 72,
    height: int = 14,
    colours: bool = False,
) -> Text:
    """The curves of several runs as text: in colours, or each drawn with a letter.

    Where curves lie on one another, they take turns. A run without values in training shows its evaluations.

    Args:
        width: columns of the whole chart, at least 30.
        height: lines of the plotting area, at least 4; axis, steps and a line for each run come below.
    """
    drawn, words = scaled(curves, by)
    lines = [smoothed(curve.train) or curve.evals for curve in drawn]
    points = [point for line in lines for point in line]
    if not points:
        return Text(f"no finite {metric} was logged")
    width, height = max(30, width), max(4, height)
    values = padded(min(value for _, value in points), max(value for _, value in points))
    span = min(x for x, _ in points), max(x for x, _ in points)
    low, high = values
    ticks = {
        place(high - value, high - low, height): text for value, text in nice_ticks(low, high, max(2, height // 3))
    }
    margin = max(len(text) for text in ticks.values())
    columns = width - margin - 2
    grids = [braille(line, span, values, columns, height) for line in lines]
    chart = Text()
    for row in range(height):
        chart.append(f"{ticks.get(row, ''):>{margin}} {'┤' if row in ticks else '│'}")
        for column in range(columns):
            here = [number for number, grid in enumerate(grids) if grid[row][column] != " "]
            if here:
                number = here[column % len(here)]
                chart.append(*_mark(grids[number][row][column], number, colours))
            else:
                chart.append(" ")
        chart.rstrip()
        chart.append("\n")
    unit = words.rpartition(" ")[2] if by in ("step", "epoch") else words
    chart.append("\n".join(step_axis(*span, margin, columns, unit)))
    for number, curve in enumerate(drawn):
        chart.append("\n" + " " * (margin + 2))
        chart.append(*_mark("━━", number, colours))
        chart.append(f" {curve.name}: {_in_words(curve, metric)}")
    return chart


def _mark(cell: str, number: int, colours: bool) -> tuple[str, str]:
    if not colours:
        return _LETTERS[number % len(_LETTERS)], ""
    return cell, _ON_TERMINALS[number % len(_ON_TERMINALS)]
