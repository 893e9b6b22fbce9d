"""How far apart the answers come that people judged better and worse: a picture for the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.runs.plots import EVAL, GRID, RAW, SMOOTH, TEXT, picture, series

MARGIN, ACCURACY = "rewards/margins", "rewards/accuracies"
REWARDS_PLOT = "rewards.png"


def plot_rewards(rows: Sequence[Mapping[str, Any]], path: Path, cache: Path | None = None) -> bool:
    """Draw the margin between better and worse answers, and below it the share of pairs in the right order.

    Args:
        rows: rows of `metrics.jsonl`; the accuracy may be missing, as it is in kto.
        path: the PNG file; its folder must exist.
        cache: where the plotting library may keep its list of fonts.
    Returns:
        False when the rows have no margin, and no file was written.
    Raises:
        OSError: the file cannot be written.
    """
    names = [name for name in (MARGIN, ACCURACY) if series(rows, name)[0] or series(rows, f"eval_{name}")[0]]
    if MARGIN not in names:
        return False
    with picture(path, (8, 2.6 * len(names) + 0.8), cache) as figure:
        for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
            for key, label, color in ((name, "train", SMOOTH), (f"eval_{name}", "eval", EVAL)):
                points, _ = series(rows, key)
                if points:
                    steps, values = zip(*points, strict=True)
                    axes.plot(steps, values, color=color, linewidth=1.4, marker="o", markersize=2.5, label=label)
            axes.axhline(0.0 if name == MARGIN else 0.5, color=RAW, linewidth=0.8)
            title = "Margin of rewards (better - worse)" if name == MARGIN else "Share of pairs in the right order"
            axes.set_title(title, loc="left", fontsize=11, color=TEXT)
            axes.grid(color=GRID, linewidth=0.7)
            axes.legend(frameon=False, fontsize=9)
        axes.set_xlabel("optimizer step", color=TEXT)
    return True
