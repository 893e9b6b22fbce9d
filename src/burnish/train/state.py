"""Everything that exact resume needs, in files that hold no pickles: tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from burnish.errors import RunFolderError
from burnish.train.engine import Engine

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
RNG_FILE = "rng_{rank}.safetensors"


@dataclass
class Progress:
    """Where a run stands after `step` optimizer steps. Times in seconds, losses in nats."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    elapsed_s: float = 0.0
    loss_sum: float = 0.0  # of the mean losses of all steps
    window_loss: float = 0.0  # the same since the last logged row
    window_steps: int = 0
    window_tokens: int = 0
    window_s: float = 0.0
    window_figures: dict[str, list[float]] = field(default_factory=dict)  # (sum, count) since the last logged row
    best_value: float | None = None  # of the metric that decides, and the step it was measured after
    best_step: int = 0
    worse_evaluations: int = 0  # in a row, since the best one
    last_eval: dict[str, float] = field(default_factory=dict)  # what the last evaluation gave
    ended: str | None = None  # why the run ended before its last step
    stream: dict[str, Any] | None = None  # where streamed data stands
    fingerprint: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, progress: Progress, optimizer: dict[str, torch.Tensor]) -> None:
    """Write progress, optimizer and the random state of this process into a checkpoint folder."""
    (folder / STATE_FILE).write_text(json.dumps(asdict(progress), indent=1, ensure_ascii=False), encoding="utf-8")
    save_file(optimizer, folder / OPTIMIZER_FILE)
    save_rng(folder, 0)


def rng_tensors() -> tuple[dict[str, torch.Tensor], str]:
    """The random state of this process: tensors, and what of Python's generator is not one, as JSON."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    version, numbers, gauss = random.getstate()
    states["python"] = torch.tensor(numbers, dtype=torch.int64)
    return states, json.dumps([version, gauss])


def save_rng(folder: Path, rank: int, state: tuple[dict[str, torch.Tensor], str] | None = None) -> None:
    """Write the random state of one rank, by default of this one."""
    states, rest = state or rng_tensors()
    save_file(states, folder / RNG_FILE.format(rank=rank), metadata={"python": rest})


def read_progress(folder: Path) -> Progress:
    """The progress kept in a checkpoint. Raises RunFolderError where the folder is none of ours."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise RunFolderError(
            "this folder is no checkpoint to resume from",
            at=str(folder),
            fix="name a checkpoint-N folder that Burnish wrote without save_only_model, or its run folder",
        )
    return Progress(**json.loads(path.read_text(encoding="utf-8")))


def load_state(folder: Path, engine: Engine, optimizer: Any) -> None:
    """Put optimizer and random state back as they were."""
    try:
        engine.load_optimizer(optimizer, load_file(folder / OPTIMIZER_FILE))
    except ValueError as error:
        raise RunFolderError(
            f"the optimizer's state in this checkpoint does not fit: {error}",
            at=str(folder),
            fix="resume with the same optim, finetuning_type, lora_rank and lora_target, or start a new output_dir",
        ) from error
    rng = folder / RNG_FILE.format(rank=engine.process_index)
    if rng.is_file():
        from safetensors import safe_open

        with safe_open(rng, framework="pt") as opened:
            version, gauss = json.loads(opened.metadata()["python"])
            numbers = opened.get_tensor("python").tolist()
            random.setstate((version, tuple(numbers), gauss))
            torch.set_rng_state(opened.get_tensor("torch"))
            if "cuda" in opened.keys() and torch.cuda.is_available():  # noqa: SIM118 - not a dict
                torch.cuda.set_rng_state(opened.get_tensor("cuda"))
