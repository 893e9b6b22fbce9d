"""The loss of each sample of a dataset under a model, by the forward pass that training uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from burnish import log
from burnish.batch.collate import Layout, collate
from burnish.batch.plan import SingleRows, packed_units
from burnish.batch.store import Selection
from burnish.config import Settings
from burnish.errors import BurnishError
from burnish.kernels.attention import packed_rows, reason_not_packed
from burnish.model.load import Loaded, load_model
from burnish.model.precision import choose_device, choose_precision
from burnish.model.save import without_adapter
from burnish.model.source import ModelSource, find_model, trained_over
from burnish.template import ChatTemplate, Example
from burnish.template.example import IGNORED
from burnish.train.data import build_template
from burnish.train.forward import token_losses
from burnish.train.origin import hub_arguments, model_source
from burnish.train.sets import prepared_set
from burnish.train.stages import STAGES

_EXCERPT_TOKENS = 60


@dataclass
class SampleLoss:
    """The loss of one row of the data.

    `nats`: summed over its supervised tokens, each times its weight. `weights`: their sum. `tokens`: how many.
    `parts`: examples that the row became. `text`: how the supervised text begins. `file`: where the row stands.
    """

    dataset: str
    row: int
    nats: float = 0.0
    weights: float = 0.0
    tokens: int = 0
    parts: int = 0
    text: str = ""
    file: str = ""

    @property
    def loss(self) -> float:
        """Nats per supervised token; NaN where all of them weigh nothing."""
        return self.nats / self.weights if self.weights else math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is no number any more."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def sample_losses(settings: Settings, model: str) -> list[SampleLoss]:
    """The loss of each row of `dataset`, labelled as training would, in file order.

    Summed over all rows it is what a training run reports as eval_loss for the same data.

    Args:
        settings: template, lengths, mask options and the datasets; `stage` is sft or pt.
        model: a model or a run folder; an adapter stays beside its base, as in training.
    Raises:
        BurnishError: the stage has no loss a token.
        DataError: nothing is left of the data.
    """
    stage_name = settings.tuning.stage
    if stage_name not in ("sft", "pt"):
        raise BurnishError(
            f"the loss of stage: {stage_name} is not one of single samples",
            at="stage",
            fix="give conversations and stage=sft, or plain text and stage=pt",
        )
    source = model_source(settings) if model == settings.model.model_name_or_path else find_model(model, log.say)
    template = build_template(settings, source)
    stored = prepared_set(settings, settings.data.dataset, template, STAGES.get(stage_name))
    return losses_of(settings, _load(settings, source).model, template, Selection(stored, np.arange(len(stored))))


def losses_of(settings: Settings, model: Any, template: ChatTemplate, examples: Selection) -> list[SampleLoss]:
    """The loss of each row that examples were made from, under a model that is loaded already.

    Args:
        settings: `cutoff_len`, and the rows at a time for models that need padding.
        model: a causal language model of transformers, with or without an adapter, in eval mode.
    """
    found: dict[tuple[str, str, int], SampleLoss] = {}
    for number, (nats, weights) in enumerate(_measure(settings, model, template, examples)):
        origin = dataset, file, row = examples.origin(number)
        one = found.setdefault(origin, SampleLoss(dataset, row, file=file))
        example = examples[number]
        one.text = one.text or _excerpt(example, template)
        one.nats, one.weights = one.nats + nats, one.weights + weights
        one.tokens, one.parts = one.tokens + example.supervised, one.parts + 1
    return list(found.values())


def _load(settings: Settings, source: ModelSource) -> Loaded:
    training, model = settings.training, settings.model
    device = choose_device(training.use_cpu)
    pure = settings.tuning.pure_bf16
    precision = choose_precision(device, bf16=training.bf16, fp16=training.fp16, pure_bf16=pure)
    log.say(f"computing in {precision.why} · {device}")
    return load_model(
        source,
        dtype=precision.dtype,
        device=device,
        flash_attn=model.flash_attn,
        trust_remote_code=model.trust_remote_code,
        quantization=trained_over(source),
        **hub_arguments(settings),
    )


def _measure(settings: Settings, model: Any, template: ChatTemplate, examples: Selection) -> list[tuple[float, float]]:
    """(summed nats, summed weights) of each example."""
    width = settings.data.cutoff_len
    packed = reason_not_packed(without_adapter(model)) is None
    layout = Layout(packed, template.tokenizer.pad_token_id or 0, width)
    batches: list[Sequence[int]] = list(packed_units(examples.lengths.tolist(), width))
    if not packed:
        size, rows = settings.training.per_device_eval_batch_size, SingleRows(len(examples))
        numbers = [number for row in rows for number in row]
        batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    results = [(0.0, 0.0)] * len(examples)
    with ExitStack() as stack:
        if packed:
            stack.enter_context(packed_rows(without_adapter(model)))
        stack.enter_context(torch.inference_mode())
        bar = stack.enter_context(log.progress("measuring", len(examples)))
        for part in batches:
            batch = collate([examples[number] for number in part], part, layout).to(model.device)
            nats = token_losses(model, batch, packed=packed).nats.double()
            sums = torch.zeros(2, len(part), dtype=torch.float64, device=nats.device)
            weights = batch.loss_weights.double()
            sums[0].index_add_(0, batch.loss_documents, nats * weights)
            sums[1].index_add_(0, batch.loss_documents, weights)
            for number, total, weight in zip(part, *sums.tolist(), strict=True):
                results[number] = (total, weight)
            bar.advance(len(part))
    return results


def _excerpt(example: Example, template: ChatTemplate) -> str:
    """How the supervised text of an example begins, on one line."""
    ids = [label for label in example.labels if label != IGNORED][:_EXCERPT_TOKENS]
    return " ".join(template.decode(ids).split())


def summary(rows: Sequence[SampleLoss]) -> dict[str, Any]:
    """The mean loss a token over all rows (eval_loss of a training run), its perplexity, and each dataset's."""
    whole = {"rows": len(rows), **_mean(rows)}
    names = dict.fromkeys(row.dataset for row in rows)
    return whole | {"datasets": {name: _mean([row for row in rows if row.dataset == name]) for name in names}}


def _mean(rows: Sequence[SampleLoss]) -> dict[str, Any]:
    mean = SampleLoss("", 0, sum(row.nats for row in rows), sum(row.weights for row in rows))
    return {"loss": mean.loss, "perplexity": mean.perplexity, "tokens": sum(row.tokens for row in rows)}
