"""Does the doctor see on a real model that answers were shuffled? SmolLM2-135M-Instruct on alpaca_en_demo.

    python bench/with_data/shuffled_answers.py DATA_DIR [--rows 400] [--probe 32] [--longest 400] [--out DIR]

DATA_DIR holds LLaMA-Factory's alpaca_en_demo.json. Three LoRA runs are made and each is asked by the doctor
(`--probe`): rows in order, rows whose answers were shuffled, and a mix in which only one of two datasets is shuffled.
Prints what the answers depend on and the findings; ends with status 1 where a run is named wrongly. A run that is there
already in --out is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from burnish.api import train
from burnish.cli.doctor import examined
from burnish.runs.doctor import Evidence, diagnose
from burnish.runs.doctor.probe import Probe

SETTINGS: dict[str, Any] = {
    "model_name_or_path": "smollm2-135m-instruct",
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_target": "all",
    "learning_rate": 5e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 8,
    "cutoff_len": 256,
    "max_new_tokens": 48,
    "val_size": 0.15,
    "eval_strategy": "steps",
    "eval_steps": 40,
    "logging_steps": 2,
    "save_strategy": "no",
    "seed": 1,
    "use_cpu": True,
}


def rows_of(path: Path, count: int, longest: int) -> list[dict[str, Any]]:
    """Rows of alpaca whose answers have at most `longest` letters, drawn, so that one core is enough."""
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if 0 < len(row["output"]) <= longest]
    random.Random(0).shuffle(rows)
    return rows[:count]


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, with the answers among them in another order."""
    answers = [row["output"] for row in rows]
    random.Random(1).shuffle(answers)
    return [{**row, "output": answer} for row, answer in zip(rows, answers, strict=True)]


def told(probe: Probe) -> list[str]:
    """How much likelier answers are after their own prompts, of each kind of rows, model and dataset."""
    lines = []
    for kind, part in (("training", probe.training), ("held-out", probe.held_out)):
        for model, views in (("before", part.base), ("tuned", part.tuned)) if part else ():
            for one in views:
                of = f" {one.dataset}" if one.dataset else ""
                span = f"{one.gain.value:+.3f} ({one.gain.low:+.3f} to {one.gain.high:+.3f})"
                lines.append(f"  {kind:<9}{model:<7}{one.rows:>4} rows{of}: own {one.own:.3f}, gain {span}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--longest", type=int, default=400, help="letters of an answer")
    parser.add_argument("--probe", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    rows = rows_of(given.data / "alpaca_en_demo.json", given.rows, given.longest)
    half = len(rows) // 2
    # Name → (the rows of each dataset, what must be said of shuffled answers).
    runs: dict[str, tuple[dict[str, list[dict[str, Any]]], str]] = {
        "in-order": ({"alpaca": rows}, ""),
        "shuffled": ({"alpaca": shuffled(rows)}, "Answers do not depend"),
        "half-shuffled": ({"right": rows[:half], "wrong": shuffled(rows[half:])}, "in wrong"),
    }
    wrong = 0
    for name, (sets, wanted) in runs.items():
        if given.only and name not in given.only:
            continue
        run_dir = out / name
        if not (run_dir / "run.json").is_file():
            files = {part: out / f"{name}-{part}.json" for part in sets}
            for part, file in files.items():
                file.write_text(json.dumps(sets[part]), encoding="utf-8")
            train(SETTINGS | {"dataset": [str(file) for file in files.values()], "output_dir": str(run_dir)})
        run = examined(Evidence.of(run_dir), given.probe, 0)
        findings = diagnose(run)
        said = [finding.what for finding in findings if finding.name == "answers-shuffled"]
        right = len(said) == bool(wanted) and all(wanted in text for text in said)
        wrong += not right
        print(f"== {name}: {'as wanted' if right else 'WRONG'}; {', '.join(one.name for one in findings) or 'nothing'}")
        print("\n".join([*told(run.probe), *said] if run.probe else said), flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
