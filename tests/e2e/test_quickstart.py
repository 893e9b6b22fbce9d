"""The quickstart's whole path on a tiny model: plan, score, train, score, report, and going on after a stop."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from burnish.cli import quickstart
from tests.conftest import build_model
from tests.runs import burnish


@pytest.fixture
def small(tiny_folder, tmp_path, monkeypatch):
    """A cache in which the default model is a tiny one with room for the prompts, and few questions."""
    from burnish.model import default

    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    folder = default.default_model_folder()
    shutil.copytree(tiny_folder, folder)
    build_model(max_position_embeddings=2048).save_pretrained(folder)
    (folder / "burnish-source.txt").write_text("a test\n")
    monkeypatch.setattr(quickstart, "TRAIN_ROWS", 16)
    monkeypatch.setattr(quickstart, "TEST_ROWS", 4)
    monkeypatch.setattr(quickstart, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(quickstart, "SETTINGS", {**quickstart.SETTINGS, "cutoff_len": 1024})
    return tmp_path / "quick start 快速"


def call(folder, **more):
    quickstart.run_quickstart(**{"output_dir": str(folder), "seed": 42, "dry_run": False, "again": False, **more})


def test_everything_is_shown_and_kept(small, capsys):
    call(small)
    shown = capsys.readouterr().out
    for part in (
        "Plan:",
        "base:",
        "tuned:",
        "95%",
        "tokens/s",
        "peak memory",
        "burnish chat",
        "loss.png",
        "expected",
    ):
        assert part in shown
    assert {"loss.png", "run.json", "answers_base.jsonl", "answers_tuned.jsonl"} <= {p.name for p in small.iterdir()}
    answers = [json.loads(line) for line in (small / "answers_tuned.jsonl").read_text().splitlines()]
    assert len(answers) == 4
    assert json.loads((small / "run.json").read_text())["data"]["rows_used"] == 16


def test_called_again_it_repeats_nothing(small, capsys, monkeypatch):
    call(small)
    first = capsys.readouterr().out
    monkeypatch.setattr("burnish.evaluate.score.ask_all", lambda *_, **__: pytest.fail("asked again"))
    call(small)
    second = capsys.readouterr().out
    assert "answered before" in second
    assert (
        second[second.index("Result:") : second.index("all of it")]
        == first[first.index("Result:") : first.index("all of it")]
    )


def test_again_starts_anew_and_only_in_its_own_folder(small, tmp_path):
    call(small)
    before = (small / "run.json").stat().st_mtime_ns
    call(small, again=True)
    assert (small / "run.json").stat().st_mtime_ns > before
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file.txt").write_text("keep")
    with pytest.raises(Exception, match="no quickstart"):
        call(other, again=True)
    assert (other / "file.txt").read_text() == "keep"


def test_a_dry_run_does_nothing(tmp_path):
    done = burnish("quickstart", "--dry-run", "--output-dir", str(tmp_path / "q"), BURNISH_CACHE=str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    assert "six minutes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_example_file_is_the_same_run():
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    example = yaml.safe_load((root / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    places = {"dataset", "dataset_dir", "output_dir"}
    assert {
        k: float(v) if k == "learning_rate" else v for k, v in example.items() if k not in places
    } == quickstart.SETTINGS
    rows = (root / "examples" / "data" / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    from burnish.data.skills import orders

    assert [json.loads(row) for row in rows] == orders.generate("train", quickstart.TRAIN_ROWS, 42)
