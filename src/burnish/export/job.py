"""A Hugging Face export from beginning to end: find, load, merge, write, read back, compare, put in place."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from burnish import log
from burnish.export.beside import report_of, tell, write_modelfile, write_papers
from burnish.export.generation import sampling_of, stop_ids
from burnish.export.hf import TOLERANCES, read_back, write_model
from burnish.export.standard import ask, over_its_own_base
from burnish.export.subject import FILES_BESIDE, Order, Subject, Wish
from burnish.export.target import Target
from burnish.export.verify import compare, require_near


def export_hf(wish: Wish, order: Order) -> dict[str, Any]:
    """Merge a model's adapters and write it as a Hugging Face folder; returns the report.

    Raises:
        BurnishError: what the user can mend; the target is then as it was.
    """
    subject = Subject(wish, log.say)
    target = Target(order.to, overwrite=order.overwrite, inputs=subject.inputs)
    target.require_room(subject.parameters * subject.dtype.itemsize + FILES_BESIDE)
    with log.progress("exporting", 4) as bar:
        run = ask(subject)
        bar.advance()
        loaded = subject.load(subject.dtype, merge=True)
        bar.advance()
        with target.written() as aside:
            template = subject.template(loaded)
            head = subject.reward_head
            write_model(loaded, template, aside, shard_gb=order.shard_gb, sampling=order.sampling, reward_head=head)
            drawn = sampling_of(loaded.model.generation_config)
            merged, stops = loaded.merged, stop_ids(template) if template else []
            del loaded
            gc.collect()
            bar.advance()
            device, code = subject.device, wish.trust_remote_code
            found = read_back(
                aside, run.trial, stops, dtype=subject.compute_dtype, device=device, trust_remote_code=code
            )
            difference, tolerance = compare(run.logits, found, run.base_logits), TOLERANCES[subject.dtype]
            require_near(difference, tolerance, "the merged model", log.note)
            report = report_of(subject, target, "hf", difference, tolerance)
            report |= {"merged": [Path(each).name for each in merged], "sampling": drawn}
            report |= over_its_own_base(subject, run, found)
            if head is None:
                write_modelfile(aside, template, drawn, from_=".", adds_bos=_adds_bos(aside))
            write_papers(aside, subject, report)
            bar.advance()
    tell(target, report)
    return report


def _adds_bos(folder: Path) -> bool:
    """Whether Ollama, which reads it in tokenizer_config.json, puts the beginning token before a prompt."""
    written = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return bool(written.get("add_bos_token"))
