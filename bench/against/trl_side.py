"""TRL's side of `bench/against/compare.py`, run by the Python that TRL is installed for.

usage: trl_side.py sft|dpo MODEL ROWS.json OUT_DIR BATCH ACCUMULATION bfloat16|float32
"""

import json
import sys
import time
from pathlib import Path

stage, model, rows_file, out = sys.argv[1:5]
batch, accumulation, dtype = int(sys.argv[5]), int(sys.argv[6]), sys.argv[7]


def chat(row):
    return [{"role": "user", "content": "\n".join(filter(None, [row["instruction"], row.get("input", "")]))}]


def pairs(row):
    """ShareGPT's preference form, as LLaMA-Factory's demo data have it."""
    said = [
        {"role": "user" if turn["from"] == "human" else "assistant", "content": turn["value"]}
        for turn in row["conversations"]
    ]
    chosen, rejected = ([{"role": "assistant", "content": row[kind]["value"]}] for kind in ("chosen", "rejected"))
    return {"prompt": said, "chosen": chosen, "rejected": rejected}


def main():
    from datasets import Dataset
    from peft import LoraConfig

    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    common = {
        "output_dir": out,
        "use_cpu": True,
        "bf16": dtype == "bfloat16",
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "gradient_checkpointing": False,
        "max_length": 1024,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 42,
        "model_init_kwargs": {"dtype": dtype},
    }
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    if stage == "sft":
        from trl import SFTConfig, SFTTrainer

        data = [{"prompt": chat(r), "completion": [{"role": "assistant", "content": r["output"]}]} for r in rows]
        settings = SFTConfig(completion_only_loss=True, **common)
        trainer = SFTTrainer(model=model, args=settings, train_dataset=Dataset.from_list(data), peft_config=adapter)
    else:
        from trl import DPOConfig, DPOTrainer

        settings = DPOConfig(**common)
        data = Dataset.from_list([pairs(row) for row in rows])
        trainer = DPOTrainer(model=model, args=settings, train_dataset=data, peft_config=adapter)
    started = time.time()
    metrics = trainer.train().metrics
    first = next((row["loss"] for row in trainer.state.log_history if "loss" in row), None)
    found = {"samples_per_second": len(rows) / (time.time() - started), "first_loss": first}
    Path(out, "peer.json").write_text(json.dumps(found | {"train_loss": metrics["train_loss"]}))


main()
