"""LLaMA-Factory's own demo sets give the ids and labels that LLaMA-Factory gives them.

`llamafactory_ids.json` holds a digest of what LLaMA-Factory 0.9.5 made of each set; no text of it is kept. To make it
anew: run `ask_llamafactory.py` with the peer's Python, then `python tests/golden/test_llamafactory_ids.py OUT.jsonl`.
Where Burnish differs on purpose, docs/decisions/0005 says why: the line end after a stop token is not trained, rows
with an empty list of tools get no empty system turn, and Qwen3's history is rendered as Qwen3 renders it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pytest

from tests.conftest import SHARED

DIGESTS = Path(__file__).with_name("llamafactory_ids.json")
TOKENIZERS = {"llama3": "llama3_1"}  # the others: qwen3
STOPS = {"llama3": 128009}  # <|eot_id|>; the others: <|im_end|>
SETS = ("identity", "alpaca_en_demo", "alpaca_zh_demo", "glaive_toolcall_en_demo")
CUTOFF = 2048
DAY = datetime(2026, 11, 22)
"""The day on which LLaMA-Factory was asked: llama3's tools stand below the day's date."""
NAMES = ("default", "alpaca", "chatml", "qwen", "qwen3", "llama3")


def stop_of(name):
    return STOPS.get(name, 151645)


def digest(rows):
    """One digest over `(ids, labels)` rows."""
    found = hashlib.sha256()
    for ids, labels in rows:
        found.update(json.dumps([list(ids), list(labels)]).encode())
    return found.hexdigest()


def without_tails(labels, stop):
    """Labels of LLaMA-Factory, with what follows the stop token of each answer masked."""
    masked = list(labels)
    place = len(masked) - 1
    while place >= 0:
        if masked[place] != -100 and masked[place] != stop and stop in masked[: place + 1]:
            following = place + 1 == len(labels) or labels[place + 1] == -100 or masked[place + 1] == -100
            if following and labels[place] in (198, 271, 220):  # a line end or two
                masked[place] = -100
        place -= 1
    return masked


def compared(name, dataset, row):
    """Whether a row is one that both render alike; `row` is the row of the data file."""
    if dataset != "glaive_toolcall_en_demo" or name == "qwen":
        return True
    return name != "qwen3" and row["tools"] not in ("", "[]")


@lru_cache
def rows_of(dataset):
    files = json.loads((SHARED / "data" / "dataset_info.json").read_text(encoding="utf-8"))
    return json.loads((SHARED / "data" / files[dataset]["file_name"]).read_text(encoding="utf-8"))


@lru_cache
def tokenizer_of(name):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHARED / "tokenizers" / TOKENIZERS.get(name, "qwen3"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data beside the checkout is not there")
@pytest.mark.parametrize("dataset", SETS)
@pytest.mark.parametrize("name", NAMES)
def test_ids_and_labels(name, dataset):
    from burnish.batch.prepare import LabelOptions, prepare
    from burnish.batch.truncation import Limits
    from burnish.data.load import load_samples
    from burnish.template import load_template

    expected = json.loads(DIGESTS.read_text(encoding="utf-8"))[name][dataset]
    samples = load_samples([dataset], SHARED / "data").samples
    kept = [sample for sample in samples if compared(name, dataset, rows_of(dataset)[sample.row])]
    if not kept:
        assert expected["rows"] == 0
        return
    template = load_template(tokenizer_of(name), name, today=DAY)
    made = prepare(kept, template, LabelOptions(Limits(CUTOFF - 1, "drop")))  # a row is too long for both
    assert made.split == 0
    assert len(made.examples) == expected["rows"]
    assert digest((one.input_ids, one.labels) for one in made.examples) == expected["sha256"]


def main(path: str) -> None:
    """Write the digests of what the peer gave."""
    rows = defaultdict(list)
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, dataset, number, ids, labels = json.loads(line)
        if len(ids) < CUTOFF and compared(name, dataset, rows_of(dataset)[number]):
            rows[name, dataset].append((ids, without_tails(labels, stop_of(name))))
    found = {
        name: {dataset: {"rows": len(rows[name, dataset]), "sha256": digest(rows[name, dataset])} for dataset in SETS}
        for name in NAMES
    }
    DIGESTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
