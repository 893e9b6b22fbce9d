"""Tables for terminals and documents: columns that line up, also with wide characters, and figures in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from burnish.log import clock

Cells = Sequence[Sequence[str]]


def table(rows: Cells, width: int | None = None) -> str:
    """Rows as text, the first one underlined.

    A table that is wider than `width` columns is cut into parts below each other, each with the first column; a
    cell that is too wide even so is shortened in the middle.
    """
    columns = len(rows[0])
    if width is not None:
        rows = [[_shortened(cell, max(8, (width - 2) // 2 if columns > 1 else width)) for cell in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(columns)]
    parts: list[list[int]] = [[0]]
    for column in range(1, columns):
        used = sum(widths[each] + 2 for each in parts[-1]) + widths[column]
        if width is not None and used > width and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(column)
    return "\n\n".join(_part(rows, [(column, widths[column]) for column in part]) for part in parts)


def _part(rows: Cells, columns: Sequence[tuple[int, int]]) -> str:
    lines = ["  ".join(set_cell_size(row[column], width) for column, width in columns) for row in rows]
    lines.insert(1, "  ".join("─" * width for _, width in columns))
    return "\n".join(line.rstrip() for line in lines)


def narrowed(rows: Cells, width: int | None, droppable: Sequence[str]) -> list[list[str]]:
    """Leave out columns, by their titles and in this order, until the table fits `width` columns."""
    kept = [list(row) for row in rows]
    for title in droppable:
        widths = [max(cell_len(row[column]) for row in kept) for column in range(len(kept[0]))]
        if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
            break
        gone = kept[0].index(title)
        kept = [[*row[:gone], *row[gone + 1 :]] for row in kept]
    return kept


def markdown(rows: Cells) -> str:
    """Rows as a Markdown table, the first one as its head; figures stand at the right."""
    head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shortened(text: str, width: int) -> str:
    """The beginning and the end of a text that is too wide."""
    if cell_len(text) <= width:
        return text
    head = set_cell_size(text, (width - 1) // 2)
    tail = text
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def part(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One part of run.json; empty where it is missing or of the wrong kind."""
    found = summary.get(name)
    return found if isinstance(found, Mapping) else {}


def phrase(values: Mapping[str, Any], text: str, key: str, write: Callable[[Any], str]) -> str:
    """A value put into a phrase; empty without the value."""
    return text.format(write(values[key])) if values.get(key) is not None else ""


def count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def whole(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def spent(value: Any) -> str:
    return clock(value) if isinstance(value, int | float) else "-"
