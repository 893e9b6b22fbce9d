"""How rewards went, of judged and of sampled answers: a picture for the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.runs.plots import EVAL, GRID, RAW, SMOOTH, TEXT, picture, series

MARGIN, ACCURACY, REWARD, LENGTH = "rewards/margins", "rewards/accuracies", "reward", "completions/mean_length"
REWARDS_PLOT = "rewards.png"
_TITLES = {
    MARGIN: "Margin of rewards (better - worse)",
    ACCURACY: "Share of pairs in the right order",
    REWARD: "Mean reward of sampled answers",
    LENGTH: "Tokens an answer",
}
_LEVELS = {MARGIN: 0.0, ACCURACY: 0.5}


def plot_rewards(rows: Sequence[Mapping[str, Any]], path: Path, cache: Path | None = None) -> bool:
    """Draw how rewards went, each figure in a part of its own.

    Of judged answers: the margin between better and worse ones, and the share of pairs in the right order. Of sampled
    answers: the mean reward of each rollout, and its answers' length.

    Args:
        rows: rows of `metrics.jsonl`.
        path: the PNG file; its folder must exist.
        cache: where the plotting library may keep its list of fonts.
    Returns:
        False when the rows have neither a margin nor a reward, and no file was written.
    Raises:
        OSError: the file cannot be written.
    """
    names = [name for name in _TITLES if series(rows, name)[0] or series(rows, f"eval_{name}")[0]]
    if MARGIN not in names and REWARD not in names:
        return False
    with picture(path, (8, 2.6 * len(names) + 0.8), cache) as figure:
        for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
            for key, label, color in ((name, "train", SMOOTH), (f"eval_{name}", "eval", EVAL)):
                points, _ = series(rows, key)
                if points:
                    steps, values = zip(*points, strict=True)
                    axes.plot(steps, values, color=color, linewidth=1.4, marker="o", markersize=2.5, label=label)
            if name in _LEVELS:
                axes.axhline(_LEVELS[name], color=RAW, linewidth=0.8)
            axes.set_title(_TITLES[name], loc="left", fontsize=11, color=TEXT)
            axes.grid(color=GRID, linewidth=0.7)
            axes.legend(frameon=False, fontsize=9)
        axes.set_xlabel("optimizer step", color=TEXT)
    return True
