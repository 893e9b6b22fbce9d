"""One model, one dataset, every method: peak memory, time and loss of each, from one run of this script.

    python bench/methods.py [--model smollm2-135m-instruct] [--dataset FILE|NAME] [--dataset-dir DIR]
                            [--rows 64] [--methods lora,dora,qlora-4bit,full,freeze] [--output runs/methods]

Each method trains in a process of its own, one after another, on the same rows in the same order. The table at the end
is that of `burnish runs compare`. Machines are noisy: compare within one table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "data"
LORA = ["finetuning_type=lora", "lora_rank=8", "lora_target=all", "learning_rate=1e-3"]
METHODS = {
    "lora": LORA,
    "dora": [*LORA, "use_dora=true"],
    "rslora": [*LORA, "use_rslora=true"],
    "pissa": [*LORA, "pissa_init=true", "pissa_convert=true"],
    "qlora-8bit": [*LORA, "quantization_bit=8"],
    "qlora-4bit": [*LORA, "quantization_bit=4"],
    "freeze": ["finetuning_type=freeze", "freeze_trainable_layers=2", "learning_rate=1e-4"],
    "full": ["finetuning_type=full", "learning_rate=2e-5"],
}
DEFAULT = "lora,dora,qlora-8bit,qlora-4bit,freeze,full"


def main() -> None:
    """Train with each method, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dataset", default=str(EXAMPLES / "orders.jsonl"))
    parser.add_argument("--dataset-dir", default="data")
    parser.add_argument("--rows", type=int, default=64, help="rows of the dataset; a tenth is held out")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--methods", default=DEFAULT, help=f"of {', '.join(METHODS)}")
    parser.add_argument("--output", default="runs/methods")
    args = parser.parse_args()
    folders = []
    for name in args.methods.split(","):
        folder = f"{args.output}/{name}"
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "burnish", "train", f"model_name_or_path={args.model}"]
        command += [f"dataset={args.dataset}", f"dataset_dir={args.dataset_dir}", f"max_samples={args.rows}"]
        command += [f"output_dir={folder}", "overwrite_output_dir=true", f"num_train_epochs={args.epochs}"]
        command += ["per_device_train_batch_size=4", "gradient_accumulation_steps=2", "cutoff_len=512"]
        command += ["val_size=0.1", "logging_steps=1", "save_strategy=no", "seed=1"]
        done = subprocess.run([*command, *METHODS[name]], check=False)
        if done.returncode:
            sys.exit(f"{name} failed with exit status {done.returncode}")
        folders.append(folder)
    subprocess.run([sys.executable, "-m", "burnish", "runs", "compare", *folders, "--markdown"], check=True)


if __name__ == "__main__":
    main()
