"""What lies beside exported weights: the report, Ollama's Modelfile, the model card."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from burnish import log
from burnish.export.card import card, shown_name
from burnish.export.modelfile import MODELFILE, modelfile
from burnish.export.subject import Subject
from burnish.export.target import REPORT, Target
from burnish.export.verify import Difference
from burnish.runs.files import to_json
from burnish.template import ChatTemplate


def report_of(
    subject: Subject, target: Target, kind: str, difference: Difference | None, tolerance: float
) -> dict[str, Any]:
    """What was exported and how far it is from the run. Names only: no folders of this machine."""
    source = subject.source
    return {
        "burnish": version("burnish"),
        "name": target.folder.name,
        "format": kind,
        "model": shown_name(subject.wish.name),
        "base": shown_name(source.location if source.adapters else source.name),
        "adapters": [Path(each).name for each in source.adapters],
        "dtype": str(subject.dtype).removeprefix("torch."),
        "parameters": subject.parameters,
        "compared_in": str(subject.compute_dtype).removeprefix("torch."),
        "tolerance": tolerance,
        "difference": difference.record() if difference else None,
    }


def write_modelfile(
    folder: Path, template: ChatTemplate | None, sampling: Mapping[str, Any], *, from_: str, adds_bos: bool
) -> None:
    """Write Ollama's Modelfile and say what it cannot do; the arguments are those of `modelfile`."""
    text, limits = modelfile(template, from_, sampling, adds_bos=adds_bos)
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    for limit in limits:
        log.note(f"{MODELFILE}: {limit}")


def write_papers(folder: Path, subject: Subject, report: Mapping[str, Any]) -> None:
    """Write the model card and the report."""
    base = Path(subject.source.location)
    text = card(subject.record, report, base=base if base.is_dir() else None, evaluation=subject.folder)
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / REPORT).write_text(to_json(report, indent=2) + "\n", encoding="utf-8")


def tell(target: Target, report: Mapping[str, Any]) -> None:
    """Say how the check went and where the export lies."""
    if report["difference"]:
        log.say(f"checked after reading it back (in {report['compared_in']}): {Difference(**report['difference'])}")
    own, asked = report.get("over_training_base"), report.get("llama.cpp")
    if own:
        log.say(
            f"against the {own['base']} base it was trained over: same likeliest token at {own['equal_argmax']:.2%} of "
            f"{own['tokens']} positions, KL divergence {own['kl']:.2g} nats"
        )
    if asked:
        log.say(
            f"llama.cpp: the same ids; log-probabilities differ by {asked['mean_logprob']:.2g} nats in the mean, "
            f"{asked['max_logprob']:.2g} at most; the same greedy answer for {asked['greedy']} of "
            f"{asked['conversations']} conversations"
        )
    log.say(f"exported to {target.folder}")
