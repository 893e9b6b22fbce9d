"""An adapter alone, for PEFT: with another number format, and the base by the name that others know it under."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from burnish import log
from burnish.errors import ModelError
from burnish.export.beside import report_of, tell, write_papers
from burnish.export.hf import TOLERANCES
from burnish.export.standard import ask
from burnish.export.subject import DTYPES, FILES_BESIDE, Order, Subject, Wish
from burnish.export.target import Target
from burnish.export.verify import Trial, compare, require_near
from burnish.model.base import BASE_FILE
from burnish.model.load import load_model
from burnish.model.reward import HEAD_FILE
from burnish.model.save import MERGED_FILE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ALONG = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", BASE_FILE, HEAD_FILE),
)


def export_adapter(wish: Wish, order: Order, base_name: str | None) -> dict[str, Any]:
    """Copy the last adapter of a model so that PEFT loads it elsewhere; returns the report.

    Args:
        base_name: what adapter_config.json names as the base; None keeps what is there.
    Raises:
        BurnishError: what the user can mend; the target is then as it was.
    """
    subject = Subject(wish, log.say)
    target = Target(order.to, overwrite=order.overwrite, inputs=subject.inputs)
    adapter = _the_adapter(subject)
    target.require_room((adapter / WEIGHTS).stat().st_size * 2 + FILES_BESIDE)
    dtype = None if wish.dtype == "auto" else DTYPES[wish.dtype]
    run = ask(subject)
    with target.written() as aside:
        held = _write(adapter, aside, dtype, base_name)
        found = load_model(
            replace(subject.source, adapters=(str(aside),)),
            dtype=subject.compute_dtype,
            device=subject.device,
            trust_remote_code=wish.trust_remote_code,
            **wish.hub,
        )
        trial = Trial(found.tokenizer, subject.template(found))
        run.trial.require_same_ids(trial.tokenizer)
        tolerance = TOLERANCES.get(held, TOLERANCES[torch.bfloat16])
        difference = compare(run.logits, run.trial.logits(found.model), run.base_logits)
        require_near(difference, tolerance, "the adapter", log.note)
        report = report_of(subject, target, "adapter for PEFT", difference, tolerance)
        report |= {"dtype": str(held).removeprefix("torch."), "base_name": base_name}
        write_papers(aside, subject, report)
    tell(target, report)
    return report


def _the_adapter(subject: Subject) -> Path:
    """The folder of the adapter. Raises ModelError where there is none, or none that can stand by itself."""
    if not subject.source.adapters:
        raise ModelError("there is no adapter here", at=subject.wish.name, fix="leave --adapter-only out")
    folder = Path(subject.source.adapters[-1])
    if (folder / MERGED_FILE).is_file() or len(subject.source.adapters) > 1:
        raise ModelError(
            "this adapter stands on others that are merged into its base, and is worth nothing without them",
            at=str(folder),
            fix="export without --adapter-only, which merges all of them",
        )
    start = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("init_lora_weights")
    if isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq")):
        raise ModelError(
            f"this adapter fits only what {start} left of its base's weights, not the base itself",
            at=str(folder / CONFIG),
            fix="export without --adapter-only, which merges it",
        )
    return folder


def _write(adapter: Path, folder: Path, dtype: torch.dtype | None, base_name: str | None) -> torch.dtype:
    """Write the files of an adapter; returns the number format of its tensors."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter / WEIGHTS)
    if dtype is not None:
        tensors = {name: t.to(dtype).contiguous() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    if base_name:
        config |= {"base_model_name_or_path": base_name, "revision": None}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in _ALONG:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)
    return next(iter(tensors.values())).dtype
