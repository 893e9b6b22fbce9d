"""Streams of every file type: the same steps for any number of processes, and the same ones after a resume."""

from __future__ import annotations

import csv
import gzip
import json

import pytest

from burnish.data import places
from tests.unit.train.test_stream import lanes_plan, micro_batches, processes

ROWS = [{"instruction": f'ask\n{row}, "so"', "output": f"answer [{row}] {'ä' * (row % 7)}"} for row in range(60)]


def as_table(path, mark):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["instruction", "output"], delimiter=mark)
        writer.writeheader()
        writer.writerows(ROWS)


MADE = {
    "csv": lambda path: as_table(path, ","),
    "tsv": lambda path: as_table(path, "\t"),
    "json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "jsonl.gz": lambda path: path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode())),
}


@pytest.mark.parametrize("kind", MADE)
def test_one_file_gives_the_same_steps_to_any_number_of_processes(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(places, "SPACING_BYTES", 200)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    MADE[kind](folder / f"a.{kind}")
    whole = micro_batches(processes(folder, 4, 1), 12)
    assert micro_batches(processes(folder, 1, 4, 4), 12) == whole
    assert micro_batches(processes(folder, 2, 2, 4, workers=2), 12) == whole
    first = processes(folder, 2, 2, 4)
    micro_batches(first, 5)
    told = [{number: lane.position(one._row(number, 5)) for number, lane in one._opened.items()} for one in first]
    first[0].gather = lambda _: told
    place = json.loads(json.dumps(first[0].position(5)))
    for ranks, accumulation in ((1, 4), (4, 1)):
        again = [lanes_plan(folder, ranks, rank, accumulation) for rank in range(ranks)]
        for one in again:
            one.seek(place, 5)
        assert micro_batches(again, 12, 5) == whole[20:]
