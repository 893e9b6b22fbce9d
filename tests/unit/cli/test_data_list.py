"""What `burnish data list` and `stats` print of things that are wrong."""

from __future__ import annotations

import json

from burnish.cli.data import run_list
from burnish.cli.data_stats import Report, show
from burnish.data.iterate import iter_samples


def test_a_broken_entry_says_what_is_wrong_with_it(tmp_path, capsys):
    entries = {"fine": {"file_name": "gone.json"}, "odd": {"file_name": "a.json", "colums": {}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    run_list(str(tmp_path))
    fine, odd = capsys.readouterr().out.splitlines()[1:]
    assert fine.split() == ["fine", "alpaca", "gone.json", "missing"]
    assert odd.rstrip().split(maxsplit=1) == ["odd", "broken entry: unknown key 'colums'"]
    assert "None" not in odd


def test_dropped_rows_are_named(tmp_path, capsys):
    rows = [{"instruction": "q", "output": "yes"}, {"instruction": "q", "output": ""}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = Report("a")
    list(iter_samples([f"{tmp_path}/a.jsonl"], tmp_path, on_bad_row="report", tally=report.tally))
    show(report)
    assert "a.jsonl, row 1: empty answer at output" in capsys.readouterr().out
