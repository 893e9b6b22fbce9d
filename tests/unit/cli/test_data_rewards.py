"""`burnish data rewards`: rewards tried on the answers that data holds."""

from __future__ import annotations

import json

import pytest
import yaml

from burnish.cli.data_rewards import run_rewards
from burnish.errors import BurnishError
from tests.runs import burnish


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Writes sums.jsonl and run.yaml into the current folder; returns the name of the second."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}+{n}?", "answer": f"so\n#### {2 * n}", "guess": str(n)} for n in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"sums": {"file_name": "sums.jsonl", "columns": {"prompt": "question", "response": "answer"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entry))
    (tmp_path / "mine.py").write_text("def f(sample):\n    return 1 / sample.row\n")

    def write(*funcs, **more):
        settings = {"dataset": "sums", "dataset_dir": ".", "reward_funcs": list(funcs), **more}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        return "run.yaml"

    return write


def test_a_table_of_what_the_functions_say(run, capsys):
    file = run("math_equal", "mine.py:f", reward_weights=[2.0, 1.0])
    run_rewards(file, [], column="answer", limit=4, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    del lines[: next(place for place, line in enumerate(lines) if line.startswith("reward "))]  # the progress
    assert lines[0].split() == ["reward", "weight", "answers", "none", "mean", "deviation", "least", "most"]
    assert lines[2].split() == ["math_equal", "2", "4", "0", "1", "0", "1", "1"]
    assert lines[3].split()[:5] == ["f", "1", "3", "1", "0.6111"]
    assert lines[4].split()[:4] == ["together", "4", "0", "2.458"]
    assert lines[5] == "4 answers, from the column 'answer'"
    assert lines[6].startswith("note: sums, row 0: reward 'f' raised ZeroDivisionError")


def test_another_column_and_lines_of_json(run, capsys):
    run_rewards(run("math_equal"), ["max_samples=2"], column="guess", limit=9, as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"dataset": "sums", "row": 0, "rewards": {"math_equal": 1.0}, "total": 1.0},
        {"dataset": "sums", "row": 1, "rewards": {"math_equal": 0.0}, "total": 0.0},
    ]


def test_tokens_are_counted_with_the_model_of_the_run(run, capsys, tiny_folder):
    file = run({"name": "length", "target": 9}, model_name_or_path=str(tiny_folder))
    run_rewards(file, [], column="answer", limit=1, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["total"] == 1.0  # a byte-level tokenizer: "so\n#### 0"
    run_rewards(file, ["model_name_or_path=null"], column="answer", limit=1, as_json=False)
    assert "the answer's tokens are not known here" in capsys.readouterr().out


def test_mistakes(run):
    for overrides, column, what in (
        ([], "answr", "no row has a column 'answr' to score"),
        (["reward_funcs=math_equl"], "answer", "unknown reward 'math_equl'"),
        (["reward_funcs={name: exact_match, column: x}"], "answer", "'exact_match' needs the column 'x', which no row"),
        (["reward_funcs="], "answer", "'reward_funcs' is not set"),
    ):
        with pytest.raises(BurnishError, match=what):
            run_rewards(run("math_equal"), overrides, column=column, limit=9, as_json=False)


def test_the_command_line(run):
    done = burnish("data", "rewards", run("math_equal"), "--limit", "2")
    assert (done.returncode, "2 answers, from the column 'answer'" in done.stdout) == (0, True), done.stderr
    wrong = burnish("data", "rewards", "run.yaml", "reward_timeout=0")
    assert (wrong.returncode, "'reward_timeout' must be above 0" in wrong.stderr) == (2, True)
