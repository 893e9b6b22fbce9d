"""Runs that are broken on purpose, and healthy ones, on a tiny model that was first taught a little language.

python -m tests.doctor_runs FOLDER [NAME …] makes them (or those named) and prints what the doctor says.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import build_model, build_tokenizer

_NOUNS = ("cat", "dog", "sun", "tree", "boat", "lamp", "bird", "cup", "hat", "key", "map", "pen")
_VERBS = ("sees", "likes", "wants", "takes", "finds", "hides")
_COLOURS = ("red", "blue", "green", "white", "black")
BASE: dict[str, Any] = {
    "stage": "sft",
    "finetuning_type": "full",
    "learning_rate": 1e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "no",
    "cutoff_len": 128,
    "val_size": 0.1,
    "plot_loss": False,
    "use_cpu": True,
    "overwrite_output_dir": True,
}


def sentence(draw: random.Random) -> str:
    return f"the {draw.choice(_COLOURS)} {draw.choice(_NOUNS)} {draw.choice(_VERBS)} the {draw.choice(_NOUNS)}"


def rows(count: int, seed: int, shuffled: bool = False) -> list[dict[str, Any]]:
    """Questions whose answer is in them: who does it, in capitals."""
    draw = random.Random(seed)
    asked = [sentence(draw) for _ in range(count)]
    answers = [" ".join(text.split()[1:3]).upper() for text in asked]
    if shuffled:
        draw.shuffle(answers)
    return [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}
        for text, answer in zip(asked, answers, strict=True)
    ]


def base_model(folder: Path) -> Path:
    """A small model that knows these sentences: it repeats what it is told, in small letters or in capitals."""
    import burnish

    start, taught = folder / "start", folder / "base"
    build_model(hidden_size=96, intermediate_size=192).save_pretrained(start)
    build_tokenizer().save_pretrained(start)
    draw = random.Random(0)
    text = [sentence(draw) for _ in range(1200)]
    write(folder / "base.jsonl", [_row(one, draw.choice((one, one.upper()))) for one in text])
    burnish.train(
        {**BASE, "model_name_or_path": str(start), "dataset": [str(folder / "base.jsonl")], "output_dir": str(taught)}
        | {"eval_strategy": "no", "val_size": 0, "learning_rate": 3e-3}
    )
    return taught


def _row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def letters(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions whose answer is drawn letters: they cannot be learned, so their loss stays high."""
    draw = random.Random(seed)
    return [_row(sentence(draw), "".join(draw.choice("abcdefghijklm") for _ in range(12))) for _ in range(count)]


# Name → (rows of each dataset, settings, what the doctor must find, one of these; nothing for a healthy run).
Case = tuple[Sequence[list[dict[str, Any]]], dict[str, Any], set[str]]
PROBED, WORST = 16, 20
WITH_PROBE = {"shuffled-answers": {"answers-shuffled"}, "rate-by-1000": {"not-learned"}}
"""What must be found as well where the model is asked."""
NO_ANSWERS = {"shuffled-answers", "sawtooth-mix"}
"""Answers that do not depend on their prompts: drawn letters do not either."""


def cases() -> dict[str, Case]:
    """The broken runs and the healthy ones."""
    cut = [_row(question, " ".join([question] * 6)) for question in (sentence(random.Random(n)) for n in range(200))]
    many, few = rows(400, 1), rows(12, 2)
    alone = {"val_size": 0.0, "eval_strategy": "no"}
    whole = {**alone, "per_device_train_batch_size": 32, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    lora = {"finetuning_type": "lora", "lora_rank": 8, "learning_rate": 5e-3}
    return {
        "rate-x100": ([many], {"learning_rate": 0.1}, {"loss-rises", "loss-spikes", "never-generalised"}),
        "rate-by-1000": ([many], {"learning_rate": 1e-6}, {"loss-flat"}),
        "shuffled-answers": ([rows(80, 3, shuffled=True)], {"num_train_epochs": 25}, {"never-generalised", "overfit"}),
        "tiny-set-20-epochs": ([few], {"num_train_epochs": 20, "val_size": 0.0, "eval_strategy": "no"}, {"memorised"}),
        "no-stop-token": ([cut], {}, {"stop-not-taught"}),
        # All rows in each step: no noise hides that steps of this length leap over the valley and back.
        "sawtooth-rate": (
            [rows(32, 1)],
            {**whole, "learning_rate": 0.03, "num_train_epochs": 200, "seed": 1},
            {"sawtooth-rate", "loss-rises"},
        ),
        "sawtooth-mix": (
            [rows(160, 5), letters(160, 9)],
            {**alone, "disable_shuffling": True, "num_train_epochs": 4},
            {"sawtooth-mix"},
        ),
        "healthy-full": ([many], {}, set()),
        "healthy-lora": ([many], lora, set()),
        "healthy-long": ([rows(800, 4)], {"num_train_epochs": 3, "eval_steps": 50}, set()),
        "healthy-noisy": ([many], {"per_device_train_batch_size": 1, "num_train_epochs": 1, "eval_steps": 50}, set()),
        "healthy-clipped": ([many], {"max_grad_norm": 0.3}, set()),
    }


def make(name: str, case: Case, base: Path, folder: Path) -> Path:
    """Train one of them; returns its run folder."""
    import burnish

    data, changes, _ = case
    burnish.train(
        {
            **BASE,
            "model_name_or_path": str(base),
            "dataset": [str(write(folder / f"{name}-{part}.jsonl", of)) for part, of in enumerate(data)],
            "output_dir": str(folder / name),
            **changes,
        }
    )
    return folder / name


def judge(name: str, case: Case, run_dir: Path) -> tuple[bool, str]:
    """What the doctor says without the model and with it: whether that is right, and its words."""
    from burnish.cli.doctor import examined
    from burnish.runs.doctor import Evidence, diagnose, render

    run = examined(Evidence.of(run_dir), 0, 0)
    asked = examined(run, PROBED, WORST)
    first, second = ({finding.name for finding in diagnose(each)} for each in (run, asked))
    if case[2]:
        right = bool(first & case[2]) and second >= first and second >= WITH_PROBE.get(name, set())
        right = right and ("answers-shuffled" in second) == (name in NO_ANSWERS)
    else:
        right = not first and not second
    return right, render(asked, diagnose(asked))


def main() -> None:

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base" if (folder / "base").exists() else base_model(folder)
    only = sys.argv[2:]
    for name, case in cases().items():
        if only and name not in only:
            continue
        right, text = judge(name, case, make(name, case, base, folder))
        print(f"== {name}: {'as wanted' if right else 'WRONG'}")
        print(text)


if __name__ == "__main__":
    main()
