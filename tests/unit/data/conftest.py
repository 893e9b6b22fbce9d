"""Small datasets on disk, and the demo sets beside the checkout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from burnish.data import stretches
from tests.conftest import SHARED

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write `data/NAME`: text as it is, .jsonl as lines, else JSON. The test runs beside `data`."""
    monkeypatch.chdir(tmp_path)

    def put(name: str, content: Any) -> Path:
        path = Path("data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in content]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    return put


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The files that are opened from here on, each with the row that they are read from."""
    found: list[tuple[str, int]] = []
    read = stretches.read_rows
    monkeypatch.setattr(
        stretches,
        "read_rows",
        lambda path, notes, start, **more: (found.append((path.name, start)), read(path, notes, start, **more))[1],
    )
    return found


@pytest.fixture
def demo_sets() -> Path:
    """The folder of demo datasets, where there is one beside the checkout."""
    folder = SHARED / "data"
    if not (folder / "dataset_info.json").is_file():
        pytest.skip("no demo datasets beside the checkout")
    return folder
