"""Start small training runs from tests, in this process or through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests import forked

BASE: dict[str, Any] = {
    "finetuning_type": "lora",
    "lora_rank": 4,
    "cutoff_len": 256,
    "per_device_train_batch_size": 2,
    "learning_rate": 5e-3,
    "num_train_epochs": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "plot_loss": False,
    "use_cpu": True,
    "seed": 3,
}


def settings(model: Path, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a small run; `changes` win."""
    return {
        **BASE,
        "model_name_or_path": str(model),
        "dataset": [str(data)],
        "output_dir": str(output),
        **changes,
    }


def weights(folder: Path) -> dict[str, Any]:
    """The tensors that a run or checkpoint saved."""
    found = [*sorted(folder.glob("adapter_model.safetensors")), *sorted(folder.glob("model*.safetensors"))]
    assert found, f"no weights in {folder}"
    return {name: tensor for file in found for name, tensor in load_file(file).items()}


def burnish(
    *arguments: str, cwd: Path | None = None, typed: str = "", anew: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; returns it with stdout and stderr as text.

    Args:
        typed: its standard input.
        anew: start Python too, as a user does; else the process is forked (tests/forked.py).
    """
    env = {**os.environ, **forked.STEADY, "COLUMNS": "120", **environment}
    if anew:
        return subprocess.run(
            [sys.executable, "-m", "burnish", *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env,
            timeout=300,
            input=typed,
            check=False,
        )
    with tempfile.TemporaryDirectory() as place:
        out, err, keys = (Path(place) / name for name in ("out", "err", "typed"))
        keys.write_text(typed, encoding="utf-8")
        process = forked.start(arguments, env, out=out, err=err, typed=keys, cwd=cwd)
        process.join(300)
        said = [path.read_text(encoding="utf-8") for path in (out, err)]
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 300, *said)
        return subprocess.CompletedProcess(arguments, process.exitcode, *said)
