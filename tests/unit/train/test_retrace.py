"""The rows of a step that are told afterwards are those that were in its batch."""

from __future__ import annotations

import json
import re

import pytest

from burnish import api
from burnish.config import load_settings
from burnish.errors import DataError
from burnish.runs.folder import read_summary
from burnish.train import loop as loops
from burnish.train.retrace import data_of_run, rows_of_steps
from tests.conftest import build_tokenizer
from tests.runs import settings

ROWS = 10


@pytest.fixture
def files(tmp_path):
    """Two datasets whose rows say who they are, some of them in two turns."""
    paths = []
    for name in ("first", "second"):
        rows = []
        for number in range(ROWS):
            turns = [("user", f"row {name}-{number} "), ("assistant", "yes " * (1 + number % 4))]
            turns += [("user", f"row {name}-{number} again"), ("assistant", "no")] if number % 5 == 0 else []
            rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@pytest.fixture
def seen(monkeypatch):
    """Step → names of rows in the batches that the model was really given while it trained."""
    found: dict[int, set[str]] = {}
    tokenizer, original = build_tokenizer(), loops.Loop._loss

    def spy(loop, batch):
        text = tokenizer.decode(batch.input_ids.flatten().tolist())
        found.setdefault(loop.progress.step + 1, set()).update(re.findall(r"row ((?:first|second)-\d+) ", text))
        return original(loop, batch)

    monkeypatch.setattr(loops.Loop, "_loss", spy)
    return found


def told(folder, record=None):
    summary = record or read_summary(folder)
    asked = load_settings(summary["settings"])
    rows = rows_of_steps(asked, summary, data_of_run(asked, summary), range(1, summary["train"]["steps"] + 1))
    names = {"first.jsonl", "second.jsonl"}
    assert {file.rsplit("/", 1)[-1] for origins in rows.values() for _, file, _ in origins} <= names
    return {
        step: {f"{file.rsplit('/', 1)[-1].split('.')[0]}-{row}" for _, file, row in origins}
        for step, origins in rows.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"val_size": 0.2, "gradient_accumulation_steps": 2, "data_seed": 11},
        {"packing": True, "cutoff_len": 128},
        {"mix_strategy": "interleave_over", "interleave_probs": [0.8, 0.2], "split_turns": True},
        {"stage": "pt", "packing": True, "cutoff_len": 64, "max_samples": 6},
    ],
    ids=["accumulated", "packed", "mixed", "windows"],
)
def test_they_are_those_of_the_batch(tiny_folder, files, seen, tmp_path, changes):
    if changes.get("stage") == "pt":
        for file in files:
            lines = [json.loads(line)["messages"][0]["content"] for line in file.read_text().splitlines()]
            file.write_text("".join(json.dumps({"text": text * 3}) + "\n" for text in lines), encoding="utf-8")
    values = settings(tiny_folder, files[0], tmp_path / "run", eval_strategy="no", **changes)
    values["dataset"] = [str(file) for file in files]
    values["per_device_train_batch_size"] = 3
    api.train(values)
    found = told(tmp_path / "run")
    assert len(found) > 3
    assert len({frozenset(rows) for rows in found.values()}) > 1
    for step, rows in found.items():
        if changes.get("stage") == "pt":  # a window may hold too little of a document to say its name
            assert seen[step] <= rows
            assert len(rows) <= len(seen[step]) + 2 * 3
        else:
            assert seen[step] == rows, step


def test_of_several_processes(tiny_folder, files, seen, tmp_path):
    values = settings(tiny_folder, files[0], tmp_path / "run", per_device_train_batch_size=4)
    record = api.train(values)
    assert record["environment"]["processes"] == 1
    shared = {
        **record,
        "environment": {"processes": 2},
        "settings": {**record["settings"], "per_device_train_batch_size": 2},
    }
    assert told(tmp_path / "run", shared) == seen  # two processes of 2 rows see what one of 4 rows sees


def test_what_cannot_be_told(tiny_folder, files, tmp_path):
    values = settings(tiny_folder, files[0], tmp_path / "run", max_steps=1)
    record = api.train(values)
    asked = load_settings(record["settings"])
    files[0].write_text(files[0].read_text().replace("yes", "maybe"), encoding="utf-8")
    with pytest.raises(DataError, match="have changed since the run"):
        data_of_run(asked, record)
    streamed = load_settings({**values, "streaming": True, "max_steps": 1})
    with pytest.raises(DataError, match="streamed data is not kept"):
        data_of_run(streamed, record)
