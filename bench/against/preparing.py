"""The same rows to tokens and labels through Burnish and through LLaMA-Factory, in turn, two processes each.

usage: python bench/against/preparing.py --llamafactory PYTHON [--rows 20000] [--rounds 2] [--workers 2]
                                    [--model smollm2-135m-instruct]

PYTHON is the interpreter of the environment in which LLaMA-Factory is installed. The rows are those of `bench/data.py`.
Measured is from the file to a data set that can be trained on, without imports and without loading the tokenizer.
The bare tokenizer on the same texts is measured too. Only ratios of one run count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import bare, in_a_child, write_rows

from burnish.model.source import find_model

_SIDE = Path(__file__).with_name("llamafactory_side.py")


def main() -> None:
    """Run both in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamafactory", required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    given = parser.parse_args()
    model = str(find_model(given.model, print).location)
    os.environ["RAYON_NUM_THREADS"] = str(given.workers)
    found: dict[str, list[dict[str, float]]] = {"bare tokenizer": [], "burnish": [], "llamafactory": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = work / "rows.jsonl"
        write_rows(path, given.rows)
        (work / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"}}))
        for turn in range(given.rounds):
            seconds, _, tokens = bare(path, model, "chatml")
            found["bare tokenizer"].append({"seconds": seconds, "rows": given.rows, "tokens": tokens})
            found["burnish"].append(in_a_child(path, model, given.workers, work / f"cache-{turn}", "chatml"))
            out = work / f"other-{turn}.json"
            command = [given.llamafactory, str(_SIDE), model, str(work), str(given.workers), str(out)]
            offline = {
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(work / f"hf-{turn}"),
                "CUDA_VISIBLE_DEVICES": "",
            }
            subprocess.run(command, check=True, capture_output=True, env=offline)
            found["llamafactory"].append(json.loads(out.read_text()))
            for name, runs in found.items():
                print(name, json.dumps(runs[-1]), flush=True)
    middle = {name: statistics.median(run["rows"] / run["seconds"] for run in runs) for name, runs in found.items()}
    print(f"\n{given.rows} rows, {given.workers} processes")
    print("| | rows/s | of the bare tokenizer's speed | Burnish's speed to it |\n|---|---|---|---|")
    for name, speed in middle.items():
        print(f"| {name} | {speed:,.0f} | {speed / middle['bare tokenizer']:.2f} | {middle['burnish'] / speed:.2f} |")


if __name__ == "__main__":
    main()
