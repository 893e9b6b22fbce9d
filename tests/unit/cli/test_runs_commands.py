"""`burnish runs`: what it prints for people, for documents and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.cli.runs import run_compare, run_list, run_show
from burnish.errors import BurnishError, RunFolderError
from tests.unit.runs.past import make_run


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.log._quiet", False)
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    for name, rate in (("first", 1e-3), ("second", 2e-4)):
        folder = make_run(tmp_path / name, 5, rate=rate)
        folder.metrics.append({"step": 3, "loss": 0.5, "eval_loss": 0.75, "grad_norm": 1.0})
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def test_the_list_can_be_filtered_sorted_and_read_by_scripts(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "failed", 5, status="failed", train={})
    run_list(str(tmp_path), sort="name", status="completed", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [Path(run["path"]).name for run in found] == ["first", "second"]
    run_list(str(tmp_path), status="failed")
    assert capsys.readouterr().out.count("\n") == 3
    run_list(str(tmp_path), status="broken")
    assert capsys.readouterr().out == f"no broken runs below {tmp_path}\n"
    run_list(str(tmp_path / "absent"), as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_words_that_the_list_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(BurnishError) as caught:
        run_list(str(tmp_path), sort="newst")
    assert str(caught.value.fix).startswith("did you mean 'newest'? known: newest, name")
    with pytest.raises(BurnishError, match="--status cannot be 'done'"):
        run_list(str(tmp_path), status="done")


def test_one_run_as_json_has_no_note_in_it(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with open(Path(two[0]) / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"step": 4, "lo\n{"step": 5, "loss": 0.25}\n')
    run_show(two[0], as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"] == 4
    run_compare(two, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2


def test_a_comparison_for_people(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "curves.png"
    run_compare(two, png=str(picture))
    shown = capsys.readouterr().out
    assert "learning_rate  0.001  0.0002" in shown
    assert "a first: last tenth 0.5, eval 0.75" in shown
    assert shown.endswith(f"drawn in {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    run_compare(two, metric="grad_norm", by="epoch", png=str(tmp_path / "none.png"))
    assert "no finite grad_norm: nothing was drawn" in capsys.readouterr().out  # these rows count no epochs


def test_a_comparison_for_a_document(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_compare(two, as_markdown=True, png=str(tmp_path / "c.png"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| setting | first | second |"
    assert lines[-1] == f"![the curves of these runs]({tmp_path / 'c.png'})"


def test_what_cannot_be_drawn_says_so(two: list[str], tmp_path: Path) -> None:
    with pytest.raises(BurnishError, match="none of these runs has logged 'los'") as caught:
        run_compare(two, metric="los")
    assert caught.value.fix == "did you mean 'loss'?"
    with pytest.raises(BurnishError, match="--by cannot be 'day'"):
        run_compare(two, by="day")
    with pytest.raises(BurnishError, match="the picture cannot be written: No such file"):
        run_compare(two, png=str(tmp_path / "absent" / "c.png"))
    with pytest.raises(RunFolderError):
        run_compare([two[0]])
