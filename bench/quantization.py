"""What a quantized base costs and saves: LoRA over whole, 8-bit and 4-bit weights, each in a process of its own.

usage: python bench/quantization.py [--model DIR_OR_NAME] [--dataset FILE] [--steps 4] [--rounds 2] [--batch 4]

All train LoRA r=8 on the same rows in the same order. Prints the memory of the weights, peak memory, samples/s and
their ratio to plain LoRA, and the losses; then tokens/s of one greedy answer. The first step of each process is left
out of the speed. On a CPU seconds are those of the processor, so that what else runs matters less; still, machines are
noisy: only ratios count, and only within one run.
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
CLOCK = """
import json, sys, time, torch, burnish
from burnish.data.records import Turn
now = time.perf_counter if torch.cuda.is_available() else time.process_time
"""
TRAIN = f"""{CLOCK}
times = []
burnish.train(json.loads(sys.argv[1]), callbacks=[lambda row: times.append(now())])
print((len(times) - 1) / (times[-1] - times[0]))
"""
ANSWER = f"""{CLOCK}
chat = burnish.load(sys.argv[1])
ask = lambda: chat.answer([Turn("user", "Write a short text about the sea.")], max_new_tokens=32)
ask()
started = now()
text = ask()
print(len(chat.template.tokenizer(text)["input_ids"]) / (now() - started))
"""


def run(code: str, argument: str) -> float:
    """The number that a new process prints last."""
    done = subprocess.run([sys.executable, "-c", code, argument], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def train_and_answer(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """run.json of a run, with its steps and the tokens of an answer a second."""
    steps = run(TRAIN, json.dumps(settings))
    record = json.loads((output / "run.json").read_text())
    return {**record, "speed": steps * settings["per_device_train_batch_size"], "tokens": run(ANSWER, str(output))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dataset", default=str(DATA))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
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
                    "per_device_train_batch_size": arguments.batch,
                    "logging_steps": 1,
                    "learning_rate": 1e-3,
                    "max_samples": arguments.batch * (arguments.steps + 1) + 8,
                    "val_size": 8,
                    "save_strategy": "no",
                    "plot_loss": False,
                    **changes,
                }
                records[name].append(train_and_answer(output, settings))
                print(f"round {turn + 1}, {name}: {records[name][-1]['speed']:.2f} samples/s", flush=True)
    base = statistics.median(record["speed"] for record in records["whole"])
    dtype = records["whole"][0]["model"]["dtype"]
    print(f"{arguments.steps} steps of {arguments.batch}, median of {arguments.rounds} rounds · {dtype}")
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
