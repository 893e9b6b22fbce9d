"""Tokens per second of Burnish's training step against the plain one (padded batch, full logits), in one run.

usage: python bench/training_step.py [--model DIR_OR_NAME] [--rounds 3] [--batch 8]

Both train LoRA r=16 on the same rows of examples/data/orders.jsonl, in the number format that suits this machine.
Machines are noisy: only the ratio counts, and only within one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from burnish.batch.collate import collate_packed, collate_padded
from burnish.batch.truncation import fit
from burnish.data.load import load_samples
from burnish.kernels.attention import packed_rows
from burnish.model.adapter import attach_lora
from burnish.model.load import load_model
from burnish.model.precision import choose_device, choose_precision
from burnish.model.source import find_model
from burnish.runs.memory import peak_rss_mb
from burnish.template import Example, load_template
from burnish.train.forward import SupervisedLoss

DATA = Path(__file__).resolve().parents[1] / "examples" / "data"


def plain_step(model: Any, examples: list[Example]) -> None:
    """What a usual trainer does: pad, compute all logits, shift, ignore -100."""
    batch = collate_padded(examples)
    labels = torch.full_like(batch.input_ids, -100)
    for row, example in enumerate(examples):
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    model(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=batch.attention_mask.to(model.device),
        labels=labels.to(model.device),
        use_cache=False,
    ).loss.backward()
    model.zero_grad()


def burnish_step(model: Any, examples: list[Example]) -> None:
    """The same rows, packed, with logits at supervised places only."""
    loss = SupervisedLoss(model, packed=True)(collate_packed(examples).to(model.device))
    (loss.total / loss.count).backward()
    model.zero_grad()


def tokens_per_second(step: Callable[[Any, list[Example]], None], model: Any, batches: list[list[Example]]) -> float:
    """Real tokens, padding left out, per second over all batches."""
    started = time.perf_counter()
    for examples in batches:
        step(model, examples)
    return sum(len(e.input_ids) for batch in batches for e in batch) / (time.perf_counter() - started)


def main() -> None:
    """Run both in turn and print their rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    device = choose_device()
    precision = choose_precision(device)
    loaded = load_model(find_model(arguments.model, print), dtype=precision.dtype, device=device)
    template = load_template(loaded.tokenizer, extra_stop_ids=loaded.stop_ids)
    samples = load_samples(["orders"], DATA, max_samples=4 * arguments.batch).samples
    examples = [fit(template.pieces(sample.record), 512).example for sample in samples]
    kept = [example for example in examples if example is not None]
    batches = [kept[start : start + arguments.batch] for start in range(0, len(kept), arguments.batch)]
    model, _ = attach_lora(loaded.model, rank=16)
    model.train()
    rates: dict[str, list[float]] = {"plain": [], "burnish": []}
    for number in range(arguments.rounds + 1):
        for name, step in (("plain", plain_step), ("burnish", burnish_step)):
            if name == "burnish":
                with packed_rows(model.get_base_model()):
                    rate = tokens_per_second(step, model, batches)
            else:
                rate = tokens_per_second(step, model, batches)
            if number:  # the first round warms up
                rates[name].append(rate)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(
        json.dumps(
            {
                "precision": precision.name,
                "tokens_per_second": {name: round(rate, 1) for name, rate in medians.items()},
                "ratio": round(medians["burnish"] / medians["plain"], 2),
                "peak_rss_mb": round(peak_rss_mb()),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
