"""What a quantized base costs and saves: LoRA over whole, 8-bit and 4-bit weights, each in a process of its own.

usage: python bench/quantization.py [--model DIR_OR_NAME] [--dataset FILE] [--steps 4] [--rounds 2]

All train LoRA r=8 on the same rows in the same order. Prints the memory of the weights, peak memory, samples/s and
their ratio to plain LoRA, and the losses; then tokens/s of one answer. Machines are noisy: only ratios count, and only
within one run. The first step of each process is left out of the speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "examples" / "data" / "orders.jsonl"
KINDS: dict[str, dict[str, Any]] = {
    "whole": {},
    "8-bit": {"quantization_bit": 8},
    "4-bit nf4": {"quantization_bit": 4},
    "4-bit fp4": {"quantization_bit": 4, "quantization_type": "fp4"},
}
TRAIN = "import json, sys, burnish; burnish.train(json.loads(sys.argv[1]))"
ANSWER = """
import sys, burnish
chat = burnish.load(sys.argv[1])
for _ in range(2):
    chat.turns.clear()
    chat.chat("Write a short text about the sea.", do_sample=False, max_new_tokens=48)
print(chat.tokens_per_second)
"""


def train(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train in a new process; returns run.json with the samples a second after the first step."""
    subprocess.run([sys.executable, "-c", TRAIN, json.dumps(settings)], check=True, stdout=subprocess.DEVNULL)
    record = json.loads((output / "run.json").read_text())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    seconds = rows[-1]["elapsed_s"] - rows[0]["elapsed_s"]
    record["speed"] = (len(rows) - 1) * settings["per_device_train_batch_size"] / seconds
    return record


def answer(output: Path) -> float:
    """Tokens a second of one answer, in a new process."""
    done = subprocess.run([sys.executable, "-c", ANSWER, str(output)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dataset", default=str(DATA))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
        for turn in range(arguments.rounds):
            for name, changes in KINDS.items():
                output = Path(place) / f"{name}-{turn}".replace(" ", "-")
                settings = {
                    "model_name_or_path": arguments.model,
                    "dataset": [arguments.dataset],
                    "output_dir": str(output),
                    "max_steps": arguments.steps + 1,
                    "per_device_train_batch_size": 4,
                    "logging_steps": 1,
                    "learning_rate": 1e-3,
                    "max_samples": 4 * (arguments.steps + 1) + 8,
                    "val_size": 8,
                    "save_strategy": "no",
                    "plot_loss": False,
                    **changes,
                }
                record = train(output, settings)
                records[name].append({**record, "tokens": answer(output)})
    base = statistics.median(record["speed"] for record in records["whole"])
    print(
        f"{arguments.steps} steps of 4, median of {arguments.rounds} rounds · {records['whole'][0]['model']['dtype']}"
    )
    print("base        weights MB   peak MB   samples/s   ratio   train loss   eval loss   tokens/s")
    for name, found in records.items():
        speed = statistics.median(record["speed"] for record in found)
        first, memory, figures = found[0], found[0]["memory"], found[0]["train"]
        print(
            f"{name:11} {first['model']['footprint_mb']:10.1f} {memory['peak_gpu_mb'] or memory['peak_rss_mb']:9.0f}"
            f" {speed:11.2f} {speed / base:7.2f} {figures['train_loss']:12.4f} {figures['eval_loss']:11.4f}"
            f" {max(record['tokens'] for record in found):10.1f}"
        )


if __name__ == "__main__":
    main()
