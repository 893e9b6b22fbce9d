"""The loss over the steps drawn in the terminal: one run's curves in braille dots."""

from __future__ import annotations

import math

from burnish.runs.plots import FEW, Points, Rows, series, smoothed, with_gap


def loss_chart(rows: Rows, width: int = 72, height: int = 12) -> str:
    """The loss over the steps as text for a terminal: the train curve in braille dots, `o` for eval values.

    From ten values on the train curve is smoothed as in the picture. Where several values share a column of
    dots, their mean is drawn.

    Args:
        rows: rows of `metrics.jsonl`.
        width: columns of the whole chart, at least 30.
        height: lines of the plotting area, at least 4; axis, steps and legend take three more.
    Returns:
        Lines joined by newlines, without one at the end; a sentence when there is no finite loss.
    """
    train, train_unusable = series(rows, "loss")
    evals, eval_unusable = series(rows, "eval_loss")
    train = smoothed(train)
    points = train + evals
    if not points:
        return "no finite loss was logged"
    width, height = max(30, width), max(4, height)
    low, high = padded(min(value for _, value in points), max(value for _, value in points))
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    ticks = nice_ticks(low, high, max(2, height // 3))
    labels = {place(high - value, high - low, height): text for value, text in ticks}
    margin = max(len(text) for text in labels.values())
    columns = width - margin - 2
    grid = braille(train, (first, last), (low, high), columns, height)
    if len(train) == 1:
        step, value = train[0]
        grid[place(high - value, high - low, height)][place(step - first, last - first, columns)] = "x"
    for step, value in evals:
        grid[place(high - value, high - low, height)][place(step - first, last - first, columns)] = "o"
    lines = [
        f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{''.join(cells)}".rstrip()
        for row, cells in enumerate(grid)
    ]
    lines += step_axis(first, last, margin, columns)
    kind = "x train" if len(train) == 1 else "⠒ train, smoothed" if len(train) >= FEW else "⠒ train"
    parts = [with_gap(kind, train_unusable)] if train else []
    parts += [with_gap("o eval", eval_unusable)] if evals else []
    return "\n".join([*lines, " " * (margin + 2) + "   ".join(parts)])


def braille(
    points: Points, steps: tuple[float, float], values: tuple[float, float], columns: int, height: int
) -> list[list[str]]:
    """A curve through the points, as [height][columns] cells of 2 × 4 dots."""
    across, down = 2 * columns, 4 * height
    binned: dict[int, list[float]] = {}
    for step, value in points:
        binned.setdefault(place(step - steps[0], steps[1] - steps[0], across), []).append(value)
    means = {column: sum(binned[column]) / len(binned[column]) for column in sorted(binned)}
    dots = {(x, place(values[1] - y, values[1] - values[0], down)) for x, y in means.items()}
    for (x0, y0), (x1, y1) in zip(list(means.items()), list(means.items())[1:], strict=False):
        # One dot for each column and each line between two neighbours, so that the curve has no gaps.
        parts = max(x1 - x0, abs(round((y1 - y0) / (values[1] - values[0]) * down)), 1)
        for part in range(parts):
            value = y0 + (y1 - y0) * part / parts
            x = x0 + int((x1 - x0) * part / parts + 0.5)
            dots.add((x, place(values[1] - value, values[1] - values[0], down)))
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode's numbering of the dots
    cells = [[0] * columns for _ in range(height)]
    for x, y in dots:
        cells[y // 4][x // 2] |= bits[y % 4][x % 2]
    return [[chr(0x2800 + cell) if cell else " " for cell in line] for line in cells]


def place(distance: float, span: float, cells: int) -> int:
    """The cell of a distance from the axis' start, where `cells` cells cover `span`."""
    return 0 if span <= 0 else min(cells - 1, max(0, int(distance / span * (cells - 1) + 0.5)))


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with some height, for a loss that never changed."""
    if high - low > 1e-9 * max(1.0, abs(high)):
        return low, high
    room = max(abs(high) * 0.1, 1e-3)
    return low - room, high + room


def nice_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """About `count` round values within a range, with their texts."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    if math.floor(high / unit) == math.ceil(low / unit):
        unit /= 2
    decimals = next(count for count in range(13) if round(unit, count) > 0 and _is_whole(unit * 10**count))
    first, last = math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9)
    return [(number * unit, f"{number * unit:.{decimals}f}") for number in range(first, last + 1)]


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6


def step_axis(first: float, last: float, margin: int, columns: int, unit: str = "step") -> list[str]:
    """The line under the plot and the steps under the line: the first, the last, round ones between."""
    axis, below = ["─"] * columns, [" "] * (columns + margin + 2)
    marks = [(first, f"{first:.0f}")]
    if last > first:
        between = nice_ticks(first, last, max(2, columns // 16))
        marks += [(last, f"{unit} {last:.0f}"), *[mark for mark in between if _is_whole(mark[0])]]
    else:
        marks = [(first, f"{unit} {first:.0f}")]
    for step, text in marks:
        column = place(step - first, last - first, columns)
        start = max(0, min(margin + 2 + column - len(text) // 2, len(below) - len(text)))
        if any(character != " " for character in below[max(0, start - 2) : start + len(text) + 2]):
            continue
        axis[column] = "┬"
        below[start : start + len(text)] = text
    return [" " * (margin + 1) + "└" + "".join(axis), "".join(below).rstrip()]
