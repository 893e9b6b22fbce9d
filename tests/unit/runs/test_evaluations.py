"""eval.json: written whole, read back, told in a table and in lines."""

from __future__ import annotations

import json

import pytest

from burnish.errors import RunFolderError
from burnish.runs.evaluations import read_evaluation, result_lines, result_rows, write_evaluation
from burnish.runs.listing import show_json, show_run

CONTENT = {
    "model": "runs/mine",
    "tasks": {
        "gsm8k_local": {
            "exact_match,strict-match": {"value": 0.25, "stderr": 0.043, "n": 100, "higher_is_better": True},
        },
        "reading": {"word_perplexity,none": {"value": 12.5, "stderr": None, "n": 7, "higher_is_better": False}},
    },
    "groups": {},
    "n_shot": {"gsm8k_local": 5, "reading": 0},
    "compared_with": {
        "model": "base",
        "tasks": {"gsm8k_local": {"exact_match,strict-match": {"verdict": "better: +4.1 points"}}},
    },
}


def test_the_table_people_know():
    head, first, second = result_rows(CONTENT)
    assert head == ["task", "filter", "n-shot", "metric", "value", "±", "n"]
    assert first == ["gsm8k_local", "strict-match", "5", "exact_match ↑", "0.2500", "0.0430", "100"]
    assert second == ["reading", "none", "0", "word_perplexity ↓", "12.5000", "", "7"]


def test_what_is_written_is_read_and_has_a_schema(tmp_path):
    path = write_evaluation(tmp_path / "new", CONTENT)
    assert json.loads(path.read_text())["schema"] == 1
    assert read_evaluation(tmp_path / "new") == {"schema": 1, **CONTENT}
    assert read_evaluation(tmp_path) is None
    (tmp_path / "eval.json").write_text("[]")
    assert read_evaluation(tmp_path) is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_evaluation(tmp_path / "file" / "below", CONTENT)


def test_runs_show_tells_what_was_evaluated(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "status": "completed", "settings": {}}))
    assert "evaluated" not in show_run(tmp_path)
    assert show_json(tmp_path)["evaluation"] is None
    write_evaluation(tmp_path, CONTENT)
    text = show_run(tmp_path)
    for line in result_lines(CONTENT):
        assert line in text
    assert "gsm8k_local exact_match (strict-match) 0.2500 ± 0.0430" in text
    assert "gsm8k_local against base: better: +4.1 points" in text
    assert show_json(tmp_path)["evaluation"]["tasks"] == CONTENT["tasks"]
