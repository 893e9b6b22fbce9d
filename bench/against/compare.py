"""The same job through Burnish and through other tools, in turn: samples a second, whole command, memory, loss.

usage: python bench/against/compare.py --data DIR [--stage sft|dpo] [--rows 32] [--rounds 1] [--dtype bfloat16|float32]
                             [--trl PYTHON] [--llamafactory PYTHON] [--model smollm2-135m-instruct]

PYTHON is the interpreter of the environment in which that tool is installed. DIR holds LLaMA-Factory's demo data with
its dataset_info.json; the rows are taken evenly from all of alpaca_en_demo (sft) or dpo_en_demo (dpo). LoRA rank 8 on
all linear layers, batches of 4 × 2 (dpo: 2 × 2), no checkpointing, at most 1024 tokens. --dtype is what the other
tools are told; Burnish is told `bf16: true` and takes what suits the machine. Only ratios of one run count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from burnish.model.source import find_model

DATASETS = {"sft": "alpaca_en_demo", "dpo": "dpo_en_demo"}
BATCH = {"sft": (4, 2), "dpo": (2, 2)}
TRL_SIDE = Path(__file__).with_name("trl_side.py")


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run a command to its end: wall seconds and the peak memory of its largest process in MB."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    started = time.time()
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return {"command_s": time.time() - started, "peak_mb": usage.ru_maxrss / 1024}


def settings(stage: str, model: str, work: Path, out: Path, dtype: str) -> dict[str, Any]:
    """The job in the names that LLaMA-Factory and Burnish share."""
    batch, accumulation = BATCH[stage]
    common = {"stage": stage, "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all"}
    common |= {"model_name_or_path": model, "dataset": "rows", "dataset_dir": str(work), "output_dir": str(out)}
    common |= {"template": "chatml", "cutoff_len": 1024, "overwrite_cache": True, "overwrite_output_dir": True}
    common |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "num_train_epochs": 1}
    common |= {"learning_rate": 1e-4, "lr_scheduler_type": "cosine", "logging_steps": 1, "save_strategy": "no"}
    common |= {"bf16": dtype == "bfloat16", "use_cpu": True, "report_to": "none", "seed": 42}
    return common | {"disable_gradient_checkpointing": True}


def once(tool: str, given: argparse.Namespace, model: str, work: Path) -> dict[str, float]:
    """One run of one tool: its figures."""
    out = work / f"out-{tool}"
    out.mkdir(exist_ok=True)
    if tool == "trl":
        batch = [str(number) for number in BATCH[given.stage]]
        rows = str(work / "rows.json")
        command = [given.trl, str(TRL_SIDE), given.stage, model, rows, str(out), *batch, given.dtype]
        figures = measured(command, work / f"{tool}.log")
        return {**figures, **json.loads((out / "peer.json").read_text())}
    dtype = "bfloat16" if tool == "burnish" else given.dtype
    job = work / f"{tool}.json"  # JSON is YAML
    job.write_text(json.dumps(settings(given.stage, model, work, out, dtype)))
    yaml = job.rename(work / f"{tool}.yaml")
    if tool == "burnish":
        figures = measured([sys.executable, "-m", "burnish", "train", str(yaml)], work / "burnish.log")
        record = json.loads((out / "run.json").read_text())["train"]
    else:
        program = Path(given.llamafactory).with_name("llamafactory-cli")
        figures = measured([str(program), "train", str(yaml)], work / f"{tool}.log")
        record = json.loads((out / "all_results.json").read_text())
    speed = record.get("samples_per_second", record.get("train_samples_per_second"))
    return {**figures, "samples_per_second": float(speed), "train_loss": float(record["train_loss"])}


def main() -> None:
    """Run all tools in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stage", choices=DATASETS, default="sft")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--trl")
    parser.add_argument("--llamafactory")
    given = parser.parse_args()
    model = str(find_model(given.model, print).location)
    name = DATASETS[given.stage]
    info = json.loads((given.data / "dataset_info.json").read_text(encoding="utf-8"))[name]
    rows = json.loads((given.data / info["file_name"]).read_text(encoding="utf-8"))
    rows = rows[:: max(1, len(rows) // given.rows)][: given.rows]
    tools = ["burnish", *(tool for tool in ("trl", "llamafactory") if getattr(given, tool))]
    found: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        (work / "dataset_info.json").write_text(json.dumps({"rows": {**info, "file_name": "rows.json"}}))
        for _ in range(given.rounds):
            for tool in tools:
                found[tool].append(once(tool, given, model, work))
                print(tool, json.dumps(found[tool][-1]), flush=True)
    keys = ("samples_per_second", "command_s", "peak_mb", "train_loss")
    middle = {tool: {key: statistics.median(run[key] for run in runs) for key in keys} for tool, runs in found.items()}
    ours = middle["burnish"]
    print(f"\n{given.stage}, {len(rows)} rows, {torch.get_num_threads()} threads; the other tools in {given.dtype}")
    print(
        "| | samples/s | whole command | peak memory | train loss | Burnish's speed to it |\n|---|---|---|---|---|---|"
    )
    for tool, row in middle.items():
        ratio = ours["samples_per_second"] / row["samples_per_second"]
        print(
            f"| {tool} | {row['samples_per_second']:.2f} | {row['command_s']:.0f} s | {row['peak_mb'] / 1000:.1f} GB | "
            f"{row['train_loss']:.3f} | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
