"""Small files of judged answers for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair_file(folder: Path, count: int = 11) -> Path:
    """Pairs of unequal length; the better answer says the number, the worse one says no."""
    rows = [
        {
            "prompt": f"Say the number {number} {'please ' * (number % 4)}",
            "chosen": f"{number} " * (1 + number % 3),
            "rejected": "no " * (1 + number % 5),
        }
        for number in range(count)
    ]
    return write(folder / "pairs.jsonl", rows)


def feedback_file(folder: Path, count: int = 12) -> Path:
    """Marked answers, four of seven desirable."""
    rows = []
    for number in range(count):
        liked = number % 7 < 4
        answer = f"{number} " * (1 + number % 3) if liked else "no " * (1 + number % 5)
        messages = [{"role": "user", "content": f"Say {number}"}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages, "label": liked})
    return write(folder / "feedback.jsonl", rows)
