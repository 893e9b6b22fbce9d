"""`burnish data inspect` on judged answers."""

import json

from burnish.cli.data import run_inspect
from tests.judged import feedback_file, pair_file
from tests.runs import settings


def run_file(folder, model, stage, data):
    path = folder / "run.yaml"
    path.write_text(json.dumps(settings(model, data, folder / "run", stage=stage)), encoding="utf-8")
    return str(path)


def test_a_pair_is_two_lines(tiny_folder, tmp_path, capsys):
    run = run_file(tmp_path, tiny_folder, "dpo", pair_file(tmp_path))
    run_inspect(run, [], format="jsonl", limit=4, html=None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["row"], line["judged"]) for line in lines] == [
        (0, "chosen"),
        (0, "rejected"),
        (1, "chosen"),
        (1, "rejected"),
    ]
    assert lines[0]["supervised_text"] == "0 <|im_end|>"
    assert lines[1]["supervised_text"] == "no <|im_end|>"


def test_both_answers_are_shown_with_the_reason_of_each_token(tiny_folder, tmp_path, capsys):
    run = run_file(tmp_path, tiny_folder, "rm", pair_file(tmp_path))
    run_inspect(run, [], format=None, limit=2, html=None)
    said = capsys.readouterr().out
    assert "row 0 · chosen" in said
    assert "row 0 · rejected" in said
    assert "before the answer that was judged" in said
    run_inspect(run, [], format=None, limit=None, html=str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 22
    assert "row 10 · rejected" in page


def test_marked_answers_show_their_mark(tiny_folder, tmp_path, capsys):
    run = run_file(tmp_path, tiny_folder, "kto", feedback_file(tmp_path))
    run_inspect(run, [], format="jsonl", limit=None, html=None)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["judged"] == "desirable" for line in lines] == [number % 7 < 4 for number in range(12)]
