"""Checks of what a run was given and what it left: status, data, settings, weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from burnish.runs.doctor.evidence import Evidence, Finding, ends, noise
from burnish.runs.lock import is_held

# First losses of models that know a language: nats a token. Below the first number there is nothing left to learn;
# above the second one the model does not understand what it reads. Rough, from runs of many sizes.
_FIRST_LOSS = ((1e9, 0.02, 5.0), (1e10, 0.02, 4.5), (float("inf"), 0.02, 4.0))

_BEGIN = 8  # logged values that tell how far the first one may scatter


def not_finished(run: Evidence) -> Iterator[Finding]:
    """The run did not come to its end."""
    status = run.summary.get("status")
    if status == "completed" or (status == "running" and is_held(run.path)):
        return
    error = run.summary.get("error")
    what = {"running": "The run died without a word.", "interrupted": "The run was interrupted."}
    yield Finding(
        "not-finished",
        "problem",
        what.get(str(status), "The run failed."),
        str(error).splitlines()[0] if error else f"its last row is of step {run.rows[-1]['step'] if run.rows else 0}",
        "go on with resume_from_checkpoint: true" if run.checkpoints else "see the end of log.txt, then start again",
    )


def not_finite(run: Evidence) -> Iterator[Finding]:
    """Losses that are no numbers."""
    bad = [row["step"] for row in run.rows if "loss" in row and row["loss"] is None]
    listed = run.path / "nonfinite_rows.jsonl"
    if not bad and not listed.exists():
        return
    where = f"at steps {', '.join(map(str, bad[:5]))}" if bad else "in some rows"
    named = f"; their rows are in {listed.name}" if listed.exists() else ""
    advice = "look at these rows; bf16: true instead of fp16: true; a lower learning_rate"
    yield Finding("not-finite", "problem", "The loss was NaN or infinite.", where + named, advice)


def usual_first_loss(run: Evidence) -> tuple[float, float]:
    """Nats a token between which a model of this size usually starts."""
    size = float(run.figure("model", "parameters") or 0)
    return next((low, high) for limit, low, high in _FIRST_LOSS if size < limit)


def first_loss(run: Evidence) -> Iterator[Finding]:
    """The loss before anything was learned is not that of a model that understands what it reads."""
    points = run.series("loss")
    if not points or run.stage not in ("sft", "pt") or run.setting("train_from_scratch"):
        return
    low, high = usual_first_loss(run)
    first = max(points[0][1], ends(points)[0]) if len(points) > 5 else points[0][1]
    # A first batch of one row may be an odd one: it counts by how far single losses scatter.
    if points[0][1] - 2 * noise(points[:_BEGIN]) > high:
        yield Finding(
            "first-loss-high",
            "warning",
            "The model hardly understood the data at the start.",
            f"the first loss is {first:.2f}; a model of this size usually starts below {high:g}",
            "check model and tokenizer (do they belong together?), the template, and the language of the data",
        )
    elif first < low:
        yield Finding(
            "first-loss-low",
            "warning",
            "There was hardly anything to learn.",
            f"the first loss is {first:.4f}",
            "the model may have been trained on these rows before, or only trivial tokens have labels: "
            "`burnish data inspect`",
        )


def rows_lost(run: Evidence) -> Iterator[Finding]:
    """Many rows were dropped or cut."""
    read, dropped = run.figure("data", "rows_read") or 0, run.figure("data", "dropped") or {}
    lost = sum(dropped.values())
    if read and lost > 0.1 * read:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
        yield Finding(
            "rows-dropped",
            "warning",
            f"{lost} of {read} rows were dropped.",
            reasons,
            "`burnish data lint` names the rows",
        )
    samples = (run.figure("data", "samples") or 0) + (run.figure("data", "eval_rows") or 0)
    cut = run.figure("data", "shortened") or 0
    if samples and cut > 0.3 * samples:
        yield Finding(
            "rows-cut",
            "warning",
            f"{cut} of {samples} samples were longer than cutoff_len and were cut.",
            f"cutoff_len is {run.setting('cutoff_len')}",
            "raise cutoff_len; `burnish data stats` shows the lengths. A cut answer never teaches to stop",
        )


def never_stops(run: Evidence) -> Iterator[Finding]:
    """The stop token has no label: the tuned model does not learn to end its answers."""
    share = run.figure("data", "teaches_stop")
    if share is None or share > 0.5 or run.stage != "sft":
        return
    cut = run.figure("data", "shortened") or 0
    advice = "raise cutoff_len: the ends of the answers are cut off" if cut else "choose a template that ends answers"
    yield Finding(
        "stop-not-taught",
        "problem",
        "The model was not taught to end its answers.",
        f"{share:.0%} of the samples train a stop token",
        f"{advice}; `burnish data inspect` shows the labels",
    )


def adapter_size(run: Evidence) -> Iterator[Finding]:
    """Rank and scaling that do not go with each other or with the data."""
    rank, alpha = run.setting("lora_rank"), run.setting("lora_alpha")
    if run.setting("finetuning_type") != "lora" or not rank:
        return
    scale = (alpha or 2 * rank) / (rank**0.5 if run.setting("use_rslora") else rank)
    if not 0.25 <= scale <= (32 if run.setting("use_rslora") else 8):
        yield Finding(
            "adapter-scale",
            "warning",
            "The adapter's scaling is far from the usual.",
            f"lora_alpha {alpha} over lora_rank {rank} multiplies the update by {scale:.3g}",
            "set lora_alpha to twice lora_rank, and steer with learning_rate",
        )
    rows = run.figure("data", "rows_used") or 0
    if rank >= 128 and 0 < rows < 1000:
        yield Finding(
            "adapter-large",
            "warning",
            "The adapter is large for so little data.",
            f"lora_rank {rank} on {rows} rows",
            "lora_rank 8 to 32 learns as much from so few rows and forgets less",
        )


def dead_adapter(run: Evidence) -> Iterator[Finding]:
    """Adapter matrices that training has not moved from zero."""
    file = run.path / "adapter_model.safetensors"
    if not file.is_file() or not run.figure("train", "steps"):
        return
    zero, total = _zero_tensors(file, "lora_B")
    if zero and total:
        yield Finding(
            "dead-adapter",
            "problem",
            "Parts of the adapter learned nothing.",
            f"{zero} of {total} lora_B matrices are all zero, as they were at the start",
            "check learning_rate and lora_target; if the loss fell all the same, please report a defect",
        )


def _zero_tensors(file: Path, part: str) -> tuple[int, int]:
    """How many tensors with `part` in their name are zero, of how many. Reads the file as bytes, a tensor at a time.

    A safetensors file is a length (8 bytes), a header in JSON with offsets, and the data.
    """
    with open(file, "rb") as handle:
        size = struct.unpack("<Q", handle.read(8))[0]
        header = json.loads(handle.read(size))
        spans = [entry["data_offsets"] for name, entry in header.items() if part in name and name != "__metadata__"]
        zero = 0
        for start, end in spans:
            handle.seek(8 + size + start)
            zero += not any(handle.read(end - start))
    return zero, len(spans)
