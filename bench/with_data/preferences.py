"""dpo and kto on the real SmolLM2-135M-Instruct: do margins rise on pairs that were held out?

    python bench/with_data/preferences.py DATA_DIR [--stages dpo,kto] [--rows N] [--out DIR]

DATA_DIR holds LLaMA-Factory's dpo_en_demo.json and kto_en_demo.json. dpo takes the shortest rows, so that one core is
enough, and holds a tenth of them out. kto takes all rows and holds a third out: its held-out answers are not paired, so
that the order of the thirty of a tenth says nothing. What is held out is evaluated on the way and at the end; before
the first step loss, margin and order are 0.693, 0 and 0 for dpo and 0.5, 0 and 0.5 for kto, by their definitions.
Prints loss, margin and the share of pairs in the right order (kto: of all pairs of a desirable and an undesirable
answer, a tie being half of one); `rewards.png` in each run's folder draws them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from burnish.api import train

DATA: dict[str, dict[str, Any]] = {
    "dpo": {
        "file_name": "dpo.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "kto": {
        "file_name": "kto.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "label"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
}
COMMON: dict[str, Any] = {
    "model_name_or_path": "smollm2-135m-instruct",
    "finetuning_type": "lora",
    "use_cpu": True,
    "eval_strategy": "steps",
    "logging_steps": 5,
    "save_strategy": "no",
    "overwrite_output_dir": True,
}
OWN: dict[str, dict[str, Any]] = {
    "dpo": {
        "val_size": 0.1,
        "eval_steps": 10,
        "eval_on_start": True,
        "per_device_eval_batch_size": 2,
        "num_train_epochs": 1,
        "cutoff_len": 96,
        "learning_rate": 5e-4,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 4,
    },
    "kto": {
        "val_size": 0.33,
        "eval_steps": 25,
        "per_device_eval_batch_size": 10,
        "num_train_epochs": 2,
        "cutoff_len": 64,
        "learning_rate": 5e-4,
        "per_device_train_batch_size": 8,
    },
}
ROWS = {"dpo": 90, "kto": 300}
"""What some minutes allow. kto has all: its held-out answers are not paired, so each tells less."""


def shortest(source: Path, target: Path, count: int) -> None:
    """Write the rows of a JSON list that have the fewest characters, in their order."""
    rows = json.loads(source.read_text(encoding="utf-8"))
    chosen = sorted(sorted(range(len(rows)), key=lambda place: len(json.dumps(rows[place])))[:count])
    target.write_text(json.dumps([rows[place] for place in chosen], ensure_ascii=False), encoding="utf-8")


def shown(row: dict[str, Any]) -> str:
    """An evaluation in a line."""
    parts = [f"loss {row['eval_loss']:.3f}"]
    for key, words in (("eval_rewards/margins", "margin"), ("eval_rewards/accuracies", "right order")):
        if key in row:
            parts.append(f"{words} {row[key]:.3f}")
    return f"step {row['step']:3}  {'  '.join(parts)}"


def main() -> None:
    """Train what was asked for and print its evaluations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--stages", default="dpo,kto")
    parser.add_argument("--rows", type=int, default=None, help="of each stage; dpo has 90 and kto 300 without it")
    parser.add_argument(
        "--data-seed", type=int, default=42, help="which rows are held out, and the order of the others"
    )
    parser.add_argument("--out", default="", help="where runs are kept; a temporary folder without it")
    asked = parser.parse_args()
    out = Path(asked.out or tempfile.mkdtemp(prefix="preferences-"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "dataset_info.json").write_text(json.dumps(DATA), encoding="utf-8")
    lines = []
    for stage in asked.stages.split(","):
        shortest(asked.data / f"{stage}_en_demo.json", out / f"{stage}.json", asked.rows or ROWS[stage])
        folder = out / f"{stage}-run"
        own = {"stage": stage, "dataset": stage, "dataset_dir": str(out), "output_dir": str(folder), **OWN[stage]}
        own["data_seed"] = asked.data_seed
        began = time.process_time()
        record = train({**COMMON, **own})
        minutes = (time.process_time() - began) / 60
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        peak = record["memory"]["peak_rss_mb"]
        lines.append(f"{stage}: {record['data']['eval_rows']} held out, {minutes:.1f} CPU minutes, peak {peak:.0f} MB")
        lines += [f"  {shown(row)}" for row in rows if "eval_loss" in row]
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
