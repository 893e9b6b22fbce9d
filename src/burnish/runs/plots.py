"""The loss over the steps as a picture for the run folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.runs.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]

FEW = 10  # train values below which nothing is smoothed

RAW, SMOOTH, EVAL, TEXT, GRID = "#a9c6e8", "#1f5fa8", "#d2601a", "#333333", "#e6e6e6"
# The picture's own font lacks East Asian characters; the first of these that is installed lends them.
_EAST_ASIAN_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS"),
    *("Noto Sans CJK JP", "Noto Sans CJK KR", "Yu Gothic", "Malgun Gothic"),
)


def series(rows: Rows, key: str) -> tuple[Points, int]:
    """The finite values of a column over the steps.

    Args:
        rows: rows of `metrics.jsonl`; those without `step` or `key` are passed over.
        key: the column, such as `loss` or `eval_loss`.
    Returns:
        (step, value) pairs in the order of the steps; and how many rows have the key without a finite value.
    """
    points, unusable = [], 0
    for row in rows:
        if key not in row or not _is_finite(row.get("step")):
            continue
        if _is_finite(row[key]):
            points.append((float(row["step"]), float(row[key])))
        else:
            unusable += 1
    return sorted(points, key=lambda point: point[0]), unusable


def smooth(values: Sequence[float], half_width: int) -> list[float]:
    """The mean over 2 · half_width + 1 neighbours; near the ends, a straight line fitted to the last so many.

    So a falling curve is neither delayed nor bent at its ends, and no single value decides where it ends.
    """
    count = len(values)
    sums, moments = [0.0], [0.0]
    for place, value in enumerate(values):
        sums.append(sums[-1] + value)
        moments.append(moments[-1] + place * value)
    result = []
    for place in range(count):
        first = max(0, min(place - half_width, count - 1 - 2 * half_width))
        last = min(count - 1, max(place + half_width, 2 * half_width))
        size, middle = last - first + 1, (first + last) / 2
        total = sums[last + 1] - sums[first]
        spread = size * (size * size - 1) / 12  # the sum of (place - middle)² over the window
        slope = (moments[last + 1] - moments[first] - middle * total) / spread if size > 1 else 0.0
        result.append(total / size + slope * (place - middle))
    return result


def plot_loss(rows: Rows, path: Path, title: str = "Loss", cache: Path | None = None) -> bool:
    """Draw train and eval loss over the optimizer steps into a PNG of 1200 × 720 pixels, atomically.

    The train loss is drawn raw in a light colour and, from ten values on, smoothed over a tenth of the
    run. A second axis counts epochs when the rows do. Characters that no installed font can draw are left
    out of the title.

    Args:
        rows: rows of `metrics.jsonl` with `step` and `loss` or `eval_loss`, and `epoch` at will.
        path: the PNG file; its folder must exist.
        title: a line above the picture, plain text.
        cache: where the plotting library may keep its list of fonts; by default `BURNISH_CACHE` if set.
    Returns:
        False when there was no finite loss to draw, and no file was written.
    Raises:
        OSError: the file cannot be written.
    """
    train, train_unusable = series(rows, "loss")
    evals, eval_unusable = series(rows, "eval_loss")
    if not train and not evals:
        return False
    with picture(path, (8, 4.8), cache) as figure:
        text, families = drawable(title)
        axes = figure.add_subplot()
        _draw_curves(axes, train, train_unusable, evals, eval_unusable)
        _dress(axes, rows)
        axes.set_title(text, loc="left", fontsize=12, color=TEXT, pad=10, family=families, parse_math=False)
    return True


@contextmanager
def picture(path: Path, inches: tuple[float, float], cache: Path | None = None, dpi: int = 150) -> Iterator[Figure]:
    """A figure to draw into, which becomes a PNG when the block ends, atomically; none where the block fails."""
    with font_list_in(cache):
        import io

        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=inches, dpi=dpi, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_atomically(Path(path), drawn.getvalue())


def _draw_curves(axes: Axes, train: Points, train_unusable: int, evals: Points, eval_unusable: int) -> None:
    steps, values = [step for step, _ in train], [value for _, value in train]
    if len(train) >= FEW:
        axes.plot(steps, values, color=RAW, linewidth=1.1, label=with_gap("train", train_unusable))
        curve = smoothed(train)
        label = f"train, smoothed; last tenth {last_tenth(train):.4g}"
        axes.plot(steps, [value for _, value in curve], color=SMOOTH, linewidth=2.0, label=label)
    elif train:
        label = with_gap(f"train, last {values[-1]:.4g}", train_unusable)
        axes.plot(steps, values, color=SMOOTH, linewidth=1.6, marker="o", markersize=4, label=label)
    if evals:
        label = with_gap(f"eval, last {evals[-1][1]:.4g}", eval_unusable)
        (line,) = axes.plot(*zip(*evals, strict=True), color=EVAL, linewidth=1.2, label=label, zorder=5)
        line.set(marker="o", markersize=5.5, markeredgecolor="white", markeredgewidth=0.8)


def last_tenth(points: Points) -> float:
    """The mean of the last tenth of the values, at least one."""
    values = [value for _, value in points][-max(1, len(points) // 10) :]
    return sum(values) / len(values)


def smoothed(points: Points) -> Points:
    """Each value over a tenth of the run around it; too few are left as they are."""
    if len(points) < FEW:
        return points
    values = smooth([value for _, value in points], max(1, len(points) // 20))
    return [(step, value) for (step, _), value in zip(points, values, strict=True)]


def quiet_axes(axes: Axes, above: float) -> None:
    """A faint grid and thin axes around curves, with room `above` and below them as a share of the height."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02, y=above)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=TEXT, labelsize=9, length=3)


def _dress(axes: Axes, rows: Rows) -> None:
    """Axes, grid and legend; nothing here depends on the curves."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("optimizer step", color=TEXT)
    axes.set_ylabel("loss", color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    quiet_axes(axes, above=0.08)
    axes.legend(frameon=False, fontsize=9, labelcolor=TEXT)
    epochs, _ = series(rows, "epoch")
    if epochs and epochs[-1][0] > 0 and epochs[-1][1] > 0:
        share = epochs[-1][1] / epochs[-1][0]

        def to_epoch(step: Any) -> Any:
            return step * share

        def to_step(epoch: Any) -> Any:
            return epoch / share

        above = axes.secondary_xaxis("top", functions=(to_epoch, to_step))
        above.set_xlabel("epoch", color="#777777", fontsize=9)
        above.tick_params(colors="#777777", labelsize=8, length=2)
        above.spines["top"].set_visible(False)


@contextmanager
def font_list_in(cache: Path | None) -> Iterator[None]:
    """While matplotlib is imported, point it to our cache instead of the user's home, unless the user did."""
    named = os.environ.get("BURNISH_CACHE")
    place = cache or (Path(named).expanduser() if named else None)
    if place is None or "MPLCONFIGDIR" in os.environ:
        yield
        return
    os.environ["MPLCONFIGDIR"] = str(place / "matplotlib")
    try:
        yield
    finally:
        del os.environ["MPLCONFIGDIR"]


def drawable(title: str, otherwise: str = "Loss") -> tuple[str, list[str]]:
    """The title without what no installed font can draw (`…` in its place), and the fonts to draw it with.

    `otherwise` stands for a title of which nothing is left.
    """
    from matplotlib.font_manager import FontProperties, findfont, fontManager
    from matplotlib.ft2font import FT2Font

    installed = {font.name for font in fontManager.ttflist}
    families = ["DejaVu Sans", *[name for name in _EAST_ASIAN_FONTS if name in installed][:2]]
    fonts = [FT2Font(findfont(FontProperties(family=name))) for name in families]
    text = ""
    for character in " ".join(title.split())[:90]:
        if any(font.get_char_index(ord(character)) for font in fonts):
            text += character
        elif not text.endswith("…"):
            text += "…"
    return (otherwise if text.strip(" …") == "" else text), families


def with_gap(label: str, unusable: int) -> str:
    return f"{label} ({unusable} not finite)" if unusable else label


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
