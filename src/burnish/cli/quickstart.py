"""`burnish quickstart`: teach the default model a skill it lacks, and show the difference.

Every part that takes time leaves its result in the run folder, so that an interrupted quickstart goes on where it
was when it is called again.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path
from typing import Any

from burnish import log
from burnish.config import load_settings
from burnish.data.skills import orders
from burnish.errors import RunFolderError

MODEL = "smollm2-135m-instruct"
TRAIN_ROWS, TEST_ROWS = 320, 64
MAX_NEW_TOKENS = 48
ANSWER_BATCH = 16

SETTINGS: dict[str, Any] = {
    "model_name_or_path": MODEL,
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 16,
    "lora_target": "all",
    "default_system": orders.SCHEMA,  # so that chat begins as the training rows do
    "cutoff_len": 512,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 2.0e-3,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "save_steps": 10,
    "save_total_limit": 1,
}
"""As in examples/quickstart.yaml, but for the places; a test holds the two together."""


def run_quickstart(*, output_dir: str, seed: int, dry_run: bool, again: bool) -> None:
    """Do it all: plan, model, base score, training, tuned score, report."""
    folder = Path(output_dir).expanduser()
    started = time.monotonic()
    _show_plan(folder, seed)
    if dry_run:
        log.say("Dry run: nothing was done.")
        return
    if again:
        _throw_away(folder)
    _refuse_another_run(folder, seed)
    train_file, _ = orders.write_files(folder / "data", seed, TRAIN_ROWS, TEST_ROWS)
    settings = load_settings(
        {
            **SETTINGS,
            "dataset": [str(train_file)],
            "output_dir": str(folder),
            "seed": seed,
            "resume_from_checkpoint": (folder / "run.json").is_file(),
        }
    )
    log.say("\n1. The model", style="bold")
    from burnish.model.default import fetch_default_model

    location = fetch_default_model(log.say)
    log.say(f"{MODEL} is in {location}")
    downloaded = time.monotonic() - started
    questions = orders.generate("test", TEST_ROWS, seed)
    log.say("\n2. What it can do before", style="bold")
    base = _score(MODEL, questions, folder / "answers_base.jsonl", "asking the base model")
    log.say(f"base: {base}")
    log.say("\n3. Training", style="bold")
    from burnish.train.run import run_training

    record = run_training(settings)
    log.say("\n4. What it can do now", style="bold")
    tuned = _score(str(folder), questions, folder / "answers_tuned.jsonl", "asking the tuned model")
    log.say(f"tuned: {tuned}")
    _report(folder, record, base, tuned, time.monotonic() - started - downloaded)


def _show_plan(folder: Path, seed: int) -> None:
    from burnish.model.default import is_fetched

    example = orders.generate("train", 1, seed)[0]["messages"]
    log.say("Burnish quickstart", style="bold")
    log.say(f"Teach {MODEL} (135 M parameters) to turn a customer's sentence into an order in JSON:")
    log.say(f"  {example[-2]['content']}")
    log.say(f"  → {example[-1]['content']}")
    log.say(
        f"Plan: score the base model on {TEST_ROWS} held-out questions, train LoRA on {TRAIN_ROWS} generated "
        f"examples,\n      score again. The held-out questions use sentences and words that training never sees;\n"
        "      the instructions stand in the prompt both times."
    )
    log.say("Time: about six minutes on two CPU cores, once everything is installed and downloaded.")
    if not is_fetched():
        log.say("First the model is downloaded: 93 to 270 MB, once.")
    log.say(f"Everything goes to {folder}. Interrupted, it goes on when it is called again.")


def _refuse_another_run(folder: Path, seed: int) -> None:
    """A folder with another seed's quickstart, or with another run, is not gone on with."""
    if not (folder / "run.json").is_file():
        return
    from burnish.runs.folder import read_summary

    settings = read_summary(folder).get("settings", {})
    if settings.get("dataset") != [str(folder / "data" / "train.jsonl")] or settings.get("seed") != seed:
        raise RunFolderError(
            "this folder holds another run (other data or another seed)",
            at=str(folder),
            fix="--again throws it away and starts anew, or choose another --output-dir",
        )


def _throw_away(folder: Path) -> None:
    """Delete an earlier quickstart, and only that: a folder with a run of ours in it."""
    if not folder.exists():
        return
    if not (folder / "answers_base.jsonl").is_file() and not (folder / "run.json").is_file():
        raise RunFolderError("this folder holds no quickstart", at=str(folder), fix="choose another --output-dir")
    from burnish.runs.folder import RunFolder

    RunFolder(folder).delete_run()
    for name in ("answers_base.jsonl", "answers_tuned.jsonl"):
        (folder / name).unlink(missing_ok=True)


def _score(name: str, questions: list[dict[str, Any]], kept: Path, title: str) -> Any:
    """The answers of a model, from the run folder where they were given before."""
    from burnish.evaluate.score import ask_all, load_score, save_score

    earlier = load_score(kept, questions)
    newest_weights = kept.parent / "adapter_model.safetensors"
    if earlier and (name == MODEL or newest_weights.stat().st_mtime <= kept.stat().st_mtime):
        log.say(f"(answered before, {kept.name})")
        return earlier
    from burnish.generate.chat import load_chat_model

    model = load_chat_model(name)
    score = ask_all(model, questions, orders.score, title=title, batch_size=ANSWER_BATCH, max_new_tokens=MAX_NEW_TOKENS)
    save_score(score, kept)
    del model
    gc.collect()
    return score


def _report(folder: Path, record: dict[str, Any], base: Any, tuned: Any, seconds: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from burnish.evaluate.score import sampled_pairs
    from burnish.runs.charts import loss_chart
    from burnish.runs.folder import RunFolder
    from burnish.runs.memory import peak_rss_mb

    out = log.console()
    log.say("\nFive answers side by side (taken at even distances, not chosen)", style="bold")
    table = Table(show_lines=True, expand=False)
    for column in ("question", "base", "tuned", "expected"):
        table.add_column(column, overflow="fold", ratio=1)
    for before, after in sampled_pairs(base, tuned, 5):
        marks = [("✓ " if answer.correct else "✗ ") + answer.prediction.strip()[:240] for answer in (before, after)]
        table.add_row(*[Text(cell) for cell in (before.question, *marks, before.reference)])  # text, never markup
    out.print(table, soft_wrap=False)
    log.say("\nLoss", style="bold")
    rows = RunFolder(folder).metrics.read()
    width = min(72, max(40, shutil.get_terminal_size((100, 24)).columns - 16))
    log.say(loss_chart(rows, width=width))
    log.say("\nResult: exact answers on questions that training never saw", style="bold")
    log.say(f"  base   {base}")
    log.say(f"  tuned  {tuned}", style="green")
    train, memory = record["train"], max(record["memory"]["peak_rss_mb"], peak_rss_mb())
    log.say(
        f"  training {log.clock(train['runtime_s'])} · {train['tokens_per_second']:.0f} tokens/s · "
        f"{record['model']['trainable'] / 1e6:.1f} M of {record['model']['parameters'] / 1e6:.0f} M parameters trained"
        f"\n  all of it {log.clock(seconds)} · peak memory {memory:.0f} MB"
    )
    folder_text = str(folder)
    shown = f'"{folder_text}"' if " " in folder_text else folder_text
    log.say("\nWhere everything is", style="bold")
    log.say(
        f"  {folder_text}/loss.png, metrics.jsonl, run.json, log.txt, adapter_model.safetensors, answers_*.jsonl, data/"
    )
    log.say("\nTry next", style="bold")
    python = "" if shutil.which("burnish") else ".venv/bin/"
    log.say(f"  {python}burnish chat {shown}")
    log.say(f"  {python}burnish data inspect examples/quickstart.yaml")
    log.say(f"  {python}burnish train examples/your_data.yaml      (your own data: edit this file)")
