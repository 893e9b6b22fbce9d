"""Lengths as histograms: bars of block characters for the terminal, and one PNG with a panel for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.runs.plots import EVAL, GRID, RAW, SMOOTH, TEXT, drawable, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bars = Sequence[tuple[int, int | None, int]]
"""(from, up to but not including, how many); the last one may have no upper end."""
_EIGHTHS = "▏▎▍▌▋▊▉█"
_COLUMNS = 2


@dataclass(frozen=True)
class Panel:
    """One histogram of a picture.

    Args:
        title: above it, plain text.
        unit: what is counted, under the axis.
        bars: the histogram.
        marks: lines with a name, such as `("median", 120)`.
    """

    title: str
    unit: str
    bars: Bars
    marks: Sequence[tuple[str, int]] = ()


def histogram_chart(bars: Bars, width: int = 100) -> str:
    """A histogram as lines of text: the range, a bar in eighths of a character, the count and its share.

    Args:
        bars: the histogram.
        width: columns of the whole chart, at least 50.
    Returns:
        Lines joined by newlines; a sentence where nothing was counted.
    """
    total = sum(count for _, _, count in bars)
    if not total:
        return "nothing to draw"
    names = [
        f"{low:,}+" if high is None else f"{low:,}–{high - 1:,}" if high - low > 1 else f"{low:,}"
        for low, high, _ in bars
    ]
    margin = max(map(len, names))
    figures = [f"{count:,}" for _, _, count in bars]
    room = max(50, width) - margin - max(map(len, figures)) - 12
    most = max(count for _, _, count in bars)
    lines = []
    for name, figure, (_, _, count) in zip(names, figures, bars, strict=True):
        line = f"{name:>{margin}} ▕{_bar(count / most, room)} "
        lines.append(f"{line}{figure} ({_percent(count / total)})" if count else line.rstrip())
    return "\n".join(lines)


def _bar(share: float, room: int) -> str:
    eighths = max(1, round(share * room * 8)) if share else 0
    return _EIGHTHS[-1] * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def plot_histograms(panels: Sequence[Panel], path: Path, title: str, cache: Path | None = None) -> None:
    """Draw the panels, two beside each other, into one PNG, atomically.

    Args:
        panels: at least one.
        path: the PNG file; its folder must exist.
        title: a line above all.
        cache: as in `plot_loss`.
    Raises:
        OSError: the file cannot be written.
    """
    lines = -(-len(panels) // _COLUMNS)
    with picture(path, (10, 0.6 + 2.9 * lines), cache, dpi=120) as figure:
        heading, families = drawable(title, "Lengths")
        figure.suptitle(heading, fontsize=12, color=TEXT, family=families, parse_math=False)
        grid = figure.subplots(lines, _COLUMNS, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(panels):
                _draw(axes, panels[place])
            else:
                axes.set_visible(False)


def _draw(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    text, families = drawable(panel.title, "Lengths")
    widths = [high - low for low, high, _ in panel.bars if high is not None]
    width = widths[0] if widths else 1
    for low, high, count in panel.bars:
        axes.bar(low, count, width, align="edge", color=RAW if high is None else SMOOTH, edgecolor="white")
        if high is None:
            axes.annotate("and above", (low + width / 2, count), ha="center", va="bottom", fontsize=7, color=TEXT)
    for name, value in panel.marks:
        axes.axvline(value, color=EVAL, linewidth=1.2)
        axes.annotate(
            f" {name} {value:,}", (value, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize=8, color=EVAL
        )
    axes.margins(y=0.18)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_title(text, loc="left", fontsize=10, color=TEXT, family=families, parse_math=False)
    axes.set_xlabel(panel.unit, color=TEXT, fontsize=9)
    axes.set_ylabel("rows", color=TEXT, fontsize=9)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=TEXT, labelsize=8, length=3)
