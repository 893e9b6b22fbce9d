"""The rows that were in the batches of a spike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from burnish.runs.doctor.evidence import Evidence, Spike
from burnish.runs.doctor.rows import named

_SHOWN_ROWS, _SHOWN_SPIKES = 8, 3
Origin = tuple[str, str, int]


def spike_rows(run: Evidence, found: Sequence[Spike]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Lines for people and details for scripts; the rows that lie in most spikes, or have the highest loss, come first.

    A batch is as innocent as its worst row: where the loss of rows was measured it tells them apart, and where the same
    row was in several spikes that does.
    """
    steps: list[dict[str, Any]] = [
        {"first": each.first, "last": each.last, "loss": each.loss, "around": each.around} for each in found
    ]
    if isinstance(run.batches, str):
        return (f"their rows cannot be told: {run.batches}",), {"spikes": steps, "rows_unknown": run.batches}
    if not run.batches:
        return (), {"spikes": steps}
    members = [
        list(dict.fromkeys(row for step in range(each.first, each.last + 1) for row in run.batches[step]))
        for each in found
    ]
    often = Counter(row for rows in members for row in rows)
    lines: list[str] = []
    for each, rows, entry in zip(found, members, steps, strict=True):
        rows.sort(key=lambda row: (-often[row], -run.losses.get(row, 0.0)))
        entry["rows"] = [_json(run, row, often[row]) for row in rows]
        if len(lines) < _SHOWN_SPIKES:
            span = f"step {each.last}" if each.first == each.last else f"steps {each.first} to {each.last}"
            told = ", ".join(_told(run, row, often[row]) for row in rows[:_SHOWN_ROWS])
            more = f" and {len(rows) - _SHOWN_ROWS} more (--json has all)" if len(rows) > _SHOWN_ROWS else ""
            lines.append(f"{span}: {told}{more}")
    if any(each.first < each.last for each in found):
        lines.append("each logged loss is a mean of several steps; logging_steps: 1 tells them apart")
    return tuple(lines), {"spikes": steps}


def _json(run: Evidence, row: Origin, spikes: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"dataset": row[0], "file": row[1], "row": row[2], "spikes": spikes}
    return entry | ({"loss": run.losses[row]} if row in run.losses else {})


def _told(run: Evidence, row: Origin, spikes: int) -> str:
    marks = [f"in {spikes} spikes"] if spikes > 1 else []
    marks += [f"loss {run.losses[row]:.2f}"] if row in run.losses else []
    dataset, file, number = row
    return named(file, number, dataset) + (f" ({', '.join(marks)})" if marks else "")
