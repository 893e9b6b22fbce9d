"""`burnish data loss`: which rows a model finds hard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import log
from burnish.cli.data_target import SETTINGS_ENDINGS
from burnish.cli.predict import settings_of_a_run
from burnish.config import Settings, load_settings
from burnish.data.registry import dataset_names
from burnish.errors import BurnishError, ModelError
from burnish.runs.files import to_json, write_atomically
from burnish.runs.tables import table

if TYPE_CHECKING:
    from burnish.train.sample_losses import SampleLoss

LOSSES = "losses.jsonl"


def run_loss(source: str, model: str | None, overrides: Sequence[str], *, worst: int, to: str | None) -> None:
    """Measure, write one line a row, and show the worst."""
    settings, name = understand(source, model, overrides)
    path = Path(to).expanduser() if to else _beside(name)
    from burnish.train.sample_losses import sample_losses, summary

    rows = sample_losses(settings, name)
    if path:
        _write(path, rows)
    hardest = sorted(rows, key=lambda row: -row.loss if not math.isnan(row.loss) else 0.0)[:worst]
    if hardest:
        log.say(f"The {len(hardest)} rows with the highest loss:", style="bold")
        shown = [(row.dataset, str(row.row), _number(row.loss), str(row.tokens), row.text[:60]) for row in hardest]
        log.say(table([("dataset", "row", "loss", "tokens", "supervised text"), *shown]))
    found = summary(rows)
    parts = [("all", found), *(found["datasets"].items() if len(found["datasets"]) > 1 else ())]
    figures = [
        (name, _number(each["loss"]), _number(each["perplexity"]), f"{each['tokens']:,}") for name, each in parts
    ]
    log.say("")
    log.say(table([("data", "loss", "perplexity", "supervised tokens"), *figures]))
    log.say(f"{len(rows):,} rows in {path}" if path else "--to FILE.jsonl keeps the loss of every row")


def understand(source: str, model: str | None, overrides: Sequence[str]) -> tuple[Settings, str]:
    """The settings and the model: of a settings file, or of data with a model beside it.

    Raises:
        BurnishError: no model is named.
    """
    from burnish.api import trained_model

    if Path(source).suffix.lower() in SETTINGS_ENDINGS:
        settings = load_settings(source, list(overrides), require=("model_name_or_path", "dataset"))
        try:
            return settings, model or trained_model(settings)
        except ModelError:
            base = str(settings.model.model_name_or_path)
            log.note(f"these settings have not trained anything yet, so this is the loss of {base}")
            return settings, base
    if model is None:
        raise BurnishError(
            "no model is named to measure the loss with",
            at="--model",
            fix=f"burnish data loss {source} --model MODEL|RUN_DIR, or give the settings file of a run",
        )
    held = settings_of_a_run(model, ["eval_dataset"])
    own = {"dataset": dataset_names(source), "eval_dataset": None, "output_dir": None, "do_predict": None}
    return load_settings({**held, **own, "do_eval": None, "eval_strategy": None, **_of_best()}, list(overrides)), model


def _of_best() -> dict[str, None]:
    """Settings that would ask for evaluations."""
    return dict.fromkeys(("load_best_model_at_end", "early_stopping_steps", "save_strategy"))


def _beside(model: str) -> Path | None:
    """The file in a run's folder; None for a model that is no run."""
    folder = Path(model).expanduser()
    return folder / LOSSES if (folder / "run.json").is_file() else None


def _write(path: Path, rows: Sequence[SampleLoss]) -> None:
    lines = [
        {
            "dataset": row.dataset,
            "row": row.row,
            "loss": row.loss,
            "perplexity": row.perplexity,
            "tokens": row.tokens,
            **({"parts": row.parts} if row.parts > 1 else {}),
        }
        for row in rows
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(to_json(line) + "\n" for line in lines).encode("utf-8"))
    except OSError as error:
        raise BurnishError(f"the losses cannot be written: {error.strerror or error}", at=str(path)) from error


def _number(value: float) -> str:
    return f"{value:,.4f}" if math.isfinite(value) else "-"
