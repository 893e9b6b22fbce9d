"""Does lm-eval's command line give the numbers of `burnish eval`? On the real SmolLM2-135M-Instruct, base and tuned.

    python bench/with_data/lm_eval_numbers.py GSM8K_DIR [--rows 8] [--epochs 6] [--seen 4] [--unseen 2] [--out DIR]

GSM8K_DIR holds train.jsonl and test.jsonl. A LoRA learns some short rows of GSM8K by heart, so that scores are not all
zero: a model of this size does no sums. Asked are some of these rows and some that it has not seen, once as free text
(gsm8k_seen) and once as a choice among four results (gsm8k_choice, by likelihood). Each model is asked by
`burnish eval` (base and adapter) and by `lm_eval --batch_size 1` (base and merged export), in float32, from the same
task files. Prints both figures of each task and how many answers are equal letter by letter; ends with status 1 where
anything differs. What is there already in --out is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"
LONGEST = 300  # letters of a question and its answer: one core is to be enough
SETTINGS: dict[str, Any] = {
    "model_name_or_path": MODEL,
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 16,
    "lora_target": "all",
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "cutoff_len": 512,
    "use_cpu": True,
    "overwrite_output_dir": True,
}
FREE = """include: gsm8k_local_plain.yaml
task: gsm8k_seen
dataset_kwargs: {{data_files: {{test: {file}}}}}
training_split: null
fewshot_split: null
generation_kwargs:
  until: []
  do_sample: false
  temperature: 0.0
  max_gen_toks: 96
"""
CHOICE = """task: gsm8k_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: right
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    for name, value in (("rows", 8), ("epochs", 6), ("seen", 4), ("unseen", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default=None)
    asked = parser.parse_args()
    out = Path(asked.out or tempfile.mkdtemp()).resolve()
    out.mkdir(parents=True, exist_ok=True)
    tasks = make_tasks(Path(asked.data), out, asked.rows, asked.seen, asked.unseen)
    tuned, merged = make_models(out, asked.epochs)
    same = True
    for name, ours, theirs in (("tuned", str(tuned), merged), ("base", MODEL, None)):
        same &= compare(
            name, burnish_eval(ours, out / f"burnish-{name}", tasks, out), lm_eval(theirs, out, name, tasks)
        )
    sys.exit(0 if same else 1)


def make_tasks(data: Path, out: Path, rows: int, seen: int, unseen: int) -> list[str]:
    """Training rows, questions and the two task files."""
    train = [row for row in read(data / "train.jsonl") if letters(row) <= LONGEST][:rows]
    test = [row for row in read(data / "test.jsonl") if letters(row) <= LONGEST][:unseen]
    chats = [
        {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in train
    ]
    write(out / "train.jsonl", chats)
    asked = train[:seen] + test
    write(out / "free.jsonl", asked)
    write(out / "choice.jsonl", list(choices(asked)))
    import burnish.evaluate.tasks as local

    for name in ("gsm8k_local", "gsm8k_local_plain"):
        (out / f"{name}.yaml").write_text(Path(local.__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    (out / "gsm8k_seen.yaml").write_text(FREE.format(file=out / "free.jsonl"))
    (out / "gsm8k_choice.yaml").write_text(CHOICE.format(file=out / "choice.jsonl"))
    return ["gsm8k_seen", "gsm8k_choice"]


def letters(row: dict[str, Any]) -> int:
    return len(row["question"]) + len(row["answer"])


def choices(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each question with its own answer and those of three others, in a drawn order."""
    draw = random.Random(0)
    for row in rows:
        others = [other["answer"] for other in rows if other is not row]
        told = [row["answer"], *draw.sample(others, 3)]
        draw.shuffle(told)
        yield {"question": row["question"], "choices": told, "right": told.index(row["answer"])}


def make_models(out: Path, epochs: int) -> tuple[Path, Path]:
    """The run folder of the adapter, and its merged export in float32."""
    tuned, merged = out / "run", out / "merged"
    if not (tuned / "adapter_model.safetensors").exists():
        from burnish.api import train

        train({**SETTINGS, "dataset": [str(out / "train.jsonl")], "num_train_epochs": epochs, "output_dir": str(tuned)})
    if not (merged / "config.json").exists():
        run([sys.executable, "-m", "burnish", "export", str(tuned), "--to", str(merged), "--dtype", "float32"])
    return tuned, merged


def burnish_eval(model: str, folder: Path, tasks: list[str], out: Path) -> dict[str, Any]:
    """Figures and answers of `burnish eval`: {"figures": {task: {metric,filter: value}}, "said": {…}}."""
    if not (folder / "eval.json").exists():
        files = [str(out / f"{task}.yaml") for task in tasks]
        options = ["--tasks", ",".join(files), "--output", str(folder), "use_cpu=true", "infer_dtype=float32"]
        run([sys.executable, "-m", "burnish", "eval", model, *options])
    found = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    figures = {task: {key: each["value"] for key, each in of.items()} for task, of in found["tasks"].items()}
    return {"figures": figures, "replies": read(folder / "eval_answers.jsonl")}


def lm_eval(merged: Path | None, out: Path, name: str, tasks: list[str]) -> dict[str, Any]:
    """The same of lm-eval's command line on the merged model, or on the base."""
    folder = out / f"lm-eval-{name}"
    if not list(folder.glob("**/results_*.json")):
        if merged is None:
            from burnish.model.default import fetch_default_model

            merged = Path(fetch_default_model(print))
        command = [sys.executable, "-m", "lm_eval", "--model", "hf"]
        command += ["--model_args", f"pretrained={merged},dtype=float32", "--device", "cpu", "--batch_size", "1"]
        command += ["--tasks", ",".join(tasks), "--include_path", str(out), "--apply_chat_template"]
        run([*command, "--log_samples", "--output_path", str(folder)])
    (results,) = folder.glob("**/results_*.json")
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    figures = {
        task: {key: value for key, value in found[task].items() if re.match(r"(acc|acc_norm|exact_match),", key)}
        for task in tasks
    }
    return {"figures": figures, "samples": {task: read(*folder.glob(f"**/samples_{task}_*.jsonl")) for task in tasks}}


def compare(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Print both, and whether they are the same."""
    same = True
    for task, figures in theirs["figures"].items():
        for key, value in figures.items():
            mine = ours["figures"][task][key]
            same &= mine == value
            print(f"{name:<6} {task:<13} {key:<30} burnish {mine:.6f}   lm-eval {value:.6f}", flush=True)
        for metric in sorted({sample["filter"] for sample in theirs["samples"][task]}):
            samples = [each for each in theirs["samples"][task] if each["filter"] == metric]
            mine = [each for each in ours["replies"] if each["task"] == task and each["filter"] == metric]
            equal = sum(alike(one, other) for one, other in zip(mine, sorted(samples, key=doc), strict=True))
            same &= equal == len(samples)
            print(f"{name:<6} {task:<13} {metric}: {equal} of {len(samples)} answers equal", flush=True)
    return same


def doc(sample: dict[str, Any]) -> int:
    return int(sample["doc_id"])


def alike(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether texts are equal letter by letter; of choices the values of the question are compared."""
    if theirs["filter"] != "none":
        return bool(mine["answer"] == theirs["resps"][0][0])
    return all(mine["values"][metric] == theirs[metric] for metric in theirs["metrics"])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(command: list[str]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(command, check=True, env={**os.environ, **offline})


if __name__ == "__main__":
    main()
