"""Run folders as finished runs leave them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from burnish.runs.folder import RunFolder

NOW = 2_000_000_000.0


def make_run(path: Path, age_s: float, rate: float = 1e-3, **parts: Any) -> RunFolder:
    folder = RunFolder(path)
    folder.path.mkdir(parents=True)
    folder.write_summary(
        {
            "status": "completed",
            "settings": {"stage": "sft", "learning_rate": rate, "output_dir": str(path), "lora": {"rank": 8}},
            "model": {"name": "tiny", "parameters": 1234567, "trainable": 8000, "dtype": "bfloat16"},
            "data": {
                "rows_read": 200,
                "rows_used": 190,
                "dropped": {"no answer": 8, "too long": 2, "empty": 0},
                "tokens": 18000,
                "supervised_tokens": 6000,
            },
            "train": {
                "steps": 2,
                "runtime_s": 95.2,
                "train_loss": 0.51234,
                "eval_loss": None,
                "tokens_per_second": 1234.4,
            },
            "memory": {"peak_rss_mb": 1500.7, "peak_gpu_mb": None},
            **parts,
        }
    )
    folder.metrics.append({"step": 1, "loss": 2.0})
    folder.metrics.append({"step": 2, "loss": 1.0})
    for name in ("run.json", "metrics.jsonl"):
        os.utime(path / name, (NOW - age_s, NOW - age_s))
    return folder
