"""One export from beginning to end: find, load, merge, write, read back, compare, put in place."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from burnish import log
from burnish.errors import BurnishError
from burnish.export.generation import sampling_of, stop_ids
from burnish.export.hf import TOLERANCES, read_back, write_model
from burnish.export.subject import Subject, Wish
from burnish.export.target import REPORT, Target
from burnish.export.verify import Difference, Trial, compare, require_near, without_the_adapter
from burnish.runs.files import to_json
from burnish.template import ChatTemplate

_FILES_BESIDE = 50_000_000  # bytes for tokenizer, configs and card


@dataclass(frozen=True)
class Order:
    """What to make of a model, and where to.

    Attributes:
        to: the folder.
        overwrite: replace an earlier export there.
        shard_gb: most of one file of weights, in GB (10^9 bytes).
        sampling: how tokens are drawn, where that is asked for; by the names of `generation.SAMPLING`.
    """

    to: str
    overwrite: bool = False
    shard_gb: float = 5.0
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Run:
    """What the run's own model computes, the standard for what is written."""

    trial: Trial
    logits: list[Tensor]
    base_logits: list[Tensor] | None
    template: ChatTemplate | None


def export_hf(wish: Wish, order: Order) -> dict[str, Any]:
    """Merge a model's adapters and write it as a Hugging Face folder; returns the report.

    Raises:
        BurnishError: what the user can mend; the target is then as it was.
    """
    subject = Subject(wish, log.say)
    target = Target(order.to, overwrite=order.overwrite, inputs=subject.inputs)
    size = subject.parameters * subject.dtype.itemsize
    target.require_room(size + _FILES_BESIDE)
    with log.progress("exporting", 4) as bar:
        run = _ask(subject)
        bar.advance(part="merging")
        loaded = subject.load(subject.dtype, merge=True)
        with target.written() as aside:
            bar.advance(part="writing")
            template = subject.template(loaded)
            head = subject.reward_head
            write_model(loaded, template, aside, shard_gb=order.shard_gb, sampling=order.sampling, reward_head=head)
            drawn = sampling_of(loaded.model.generation_config)
            merged, stops = loaded.merged, stop_ids(template) if template else []
            del loaded
            gc.collect()
            bar.advance(part="checking")
            found = read_back(
                aside,
                run.trial,
                stops,
                dtype=subject.compute_dtype,
                device=subject.device,
                trust_remote_code=wish.trust_remote_code,
            )
            difference = compare(run.logits, found, run.base_logits)
            tolerance = TOLERANCES[subject.dtype]
            require_near(difference, tolerance, "the merged model", log.note)
            report = _report(subject, "hf", difference, tolerance) | {"merged": list(merged), "sampling": drawn}
            report |= _over_its_own_base(subject, run, found)
            write_report(aside, report)
            bar.advance()
    _tell(target, report, difference)
    return report


def _ask(subject: Subject) -> _Run:
    """The run's own model, its adapter beside the weights, on the conversations."""
    loaded = subject.load(subject.compute_dtype, merge=False)
    template = subject.template(loaded)
    trial = Trial(loaded.tokenizer, template)
    logits = trial.logits(loaded.model)
    base = None
    if loaded.source.adapters:
        with without_the_adapter(loaded.model):
            base = trial.logits(loaded.model)
    return _Run(trial, logits, base, template)


def _over_its_own_base(subject: Subject, run: _Run, found: list[Tensor]) -> dict[str, Any]:
    """For an adapter trained over quantized weights: how far the export is from the model it was trained as."""
    kind = subject.trained_over
    if kind is None:
        return {}
    try:
        loaded = subject.load(subject.compute_dtype, merge=False, quantization=kind)
    except BurnishError as error:  # bitsandbytes is not installed here
        log.note(f"not compared with the {kind} base of the training: {error.what}")
        return {}
    return {"over_training_base": {"base": str(kind), **compare(run.trial.logits(loaded.model), found).record()}}


def _report(subject: Subject, kind: str, difference: Difference, tolerance: float) -> dict[str, Any]:
    source = subject.source
    return {
        "burnish": version("burnish"),
        "format": kind,
        "model": subject.wish.name,
        "base": source.name if not source.adapters else str(source.location),
        "adapters": list(source.adapters),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "parameters": subject.parameters,
        "compared_in": str(subject.compute_dtype).removeprefix("torch."),
        "tolerance": tolerance,
        "difference": difference.record(),
    }


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Keep what was exported and how it was checked beside it."""
    (folder / REPORT).write_text(to_json(report, indent=2) + "\n", encoding="utf-8")


def _tell(target: Target, report: Mapping[str, Any], difference: Difference) -> None:
    log.say(f"checked after reading it back (in {report['compared_in']}): {difference}")
    own = report.get("over_training_base")
    if own:
        log.say(
            f"against the {own['base']} base it was trained over: same likeliest token at {own['equal_argmax']:.2%} of "
            f"{own['tokens']} positions, KL divergence {own['kl']:.2g} nats"
        )
    log.say(f"exported to {target.folder}")


__all__ = ["Order", "Wish", "export_hf"]
