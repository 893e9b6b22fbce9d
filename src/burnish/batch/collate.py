"""Examples to tensors: one padding-free row, or a padded block for models that cannot isolate documents in a row.

The shift by one position happens here and nowhere else: `loss_positions` are where a prediction is made,
`loss_targets` the tokens that are to be predicted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from burnish.losses.kto import mismatched_partners
from burnish.template.example import IGNORED, Example


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    `input_ids`, `position_ids`: [1, T] packed, or [B, T] padded. `attention_mask`: [B, T] int64 when padded, else
    None. `document_lengths`: tokens of each document, in order. `loss_positions`: [N] int64 places in the flattened
    rows. `loss_targets`: [N] int64. `loss_weights`: [N] float32. `loss_documents`: [N] int64, the document each target
    stands in, counted within the batch. `samples`: the sample numbers, one a document. `datasets`: the number of each
    document's dataset, where losses are told apart by dataset. `units`: how many pairs or answers a loss
    that judges those is divided by; None where it is the summed weights. `marks`: [documents] float32, those of the
    examples. `reference`: [documents] float32 nats, log-probabilities of the answers that were computed beforehand.
    `mismatched`: prompts with the answers to other prompts, one a document. `shared_prompts`: of each pair of
    documents, how many tokens at the beginning of the first one the second reads as well, as if they stood before its
    own; None where every document is whole.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    document_lengths: tuple[int, ...]
    loss_positions: Tensor
    loss_targets: Tensor
    loss_weights: Tensor
    loss_documents: Tensor
    samples: tuple[int, ...] = ()
    datasets: tuple[int, ...] | None = None
    units: int | None = None
    marks: Tensor | None = None
    reference: Tensor | None = None
    mismatched: Batch | None = None
    shared_prompts: tuple[int, ...] | None = None

    @property
    def loss_count(self) -> float:
        """What the loss of this batch counts for in the mean over a global batch."""
        return float(self.loss_weights.sum()) if self.units is None else float(self.units)

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return sum(self.document_lengths)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in self.__dict__.items()
        }
        if self.mismatched is not None:
            moved["mismatched"] = self.mismatched.to(device)
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(Batch):
    """Answers that the model sampled, with what is needed to learn from them.

    `advantages`: [documents] float32, or one for each of the N targets. `old_logprobs`: [N] float32 nats, of the policy
    that sampled; None where that is the policy that learns. `ref_logprobs`: [N], of the reference. `old_values`,
    `returns`: [N], what the value head said at the rollout, and what it is to say.
    """

    advantages: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    old_values: Tensor | None = None
    returns: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """How examples become a batch: one `packed` row, or padded rows; `cutoff_len` is the longest row of a sample.

    `shares`: whether two answers to a prompt may be laid out so that the prompt is computed once.
    """

    packed: bool
    pad_id: int = 0
    cutoff_len: int = 2048
    shares: bool = False


def collate(examples: Sequence[Example], samples: Sequence[int], layout: Layout) -> Batch:
    """One padding-free row, or a padded block where the model cannot keep documents apart."""
    if layout.packed:
        return collate_packed(examples, samples)
    return collate_padded(examples, samples, pad_id=layout.pad_id)


def collate_feedback(examples: Sequence[Example], samples: Sequence[int], layout: Layout) -> Batch:
    """Examples with their marks, and each prompt with the answer to another prompt, for the estimate of the KL."""
    crossed = cross_answers(examples, layout.cutoff_len)
    return replace(
        collate(examples, samples, layout),
        units=len(examples),
        marks=torch.tensor([example.mark for example in examples], dtype=torch.float32),
        mismatched=collate(crossed, (), layout) if crossed else None,
    )


def cross_answers(examples: Sequence[Example], cutoff_len: int) -> list[Example]:
    """Each prompt with the answer to another prompt; fewer than the examples where prompts are equal.

    A prompt and the other's answer that are longer than `cutoff_len` together lose the end of the answer.
    """
    parts = [_prompt_and_answer(example) for example in examples]
    partners = mismatched_partners([tuple(prompt) for prompt, _ in parts])
    crossed: list[Example] = []
    for (prompt, _), partner in zip(parts, partners, strict=True):
        if partner is not None:
            answer = parts[partner][1][: max(1, cutoff_len - len(prompt))]
            crossed.append(Example([*prompt, *answer], [IGNORED] * len(prompt) + answer))
    return crossed


def _prompt_and_answer(example: Example) -> tuple[list[int], list[int]]:
    """The tokens up to the first trained one, and from it to the last trained one."""
    trained = [place for place, label in enumerate(example.labels) if label != IGNORED]
    return example.input_ids[: trained[0]], example.input_ids[trained[0] : trained[-1] + 1]


def targets(examples: Sequence[Example], starts: Sequence[int]) -> dict[str, Any]:
    """The fields of a batch that say where the loss is, for examples that begin at these places of the flat rows."""
    positions: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    documents: list[int] = []
    for number, (example, start) in enumerate(zip(examples, starts, strict=True)):
        for place in range(1, len(example.labels)):
            label = example.labels[place]
            if label != IGNORED:
                positions.append(start + place - 1)
                targets.append(label)
                weights.append(1.0 if example.weights is None else example.weights[place])
                documents.append(number)
    return {
        "loss_positions": torch.tensor(positions, dtype=torch.int64),
        "loss_targets": torch.tensor(targets, dtype=torch.int64),
        "loss_weights": torch.tensor(weights, dtype=torch.float32),
        "loss_documents": torch.tensor(documents, dtype=torch.int64),
    }


def collate_packed(examples: Sequence[Example], samples: Sequence[int] = ()) -> Batch:
    """Whole documents one after another in a row of [1, T]; positions restart at 0 with each document."""
    lengths = [len(example.input_ids) for example in examples]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    ids = [token for example in examples for token in example.input_ids]
    restarting = [place for length in lengths for place in range(length)]
    return Batch(
        input_ids=torch.tensor([ids], dtype=torch.int64),
        position_ids=torch.tensor([restarting], dtype=torch.int64),
        attention_mask=None,
        document_lengths=tuple(lengths),
        samples=tuple(samples),
        **targets(examples, starts),
    )


def collate_padded(examples: Sequence[Example], samples: Sequence[int] = (), *, pad_id: int = 0) -> Batch:
    """One document a row, [B, T], padded on the right. Padding is known by length, never by its id."""
    lengths = [len(example.input_ids) for example in examples]
    width = max(lengths)
    ids = torch.full((len(examples), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(examples), width), dtype=torch.int64)
    for row, example in enumerate(examples):
        ids[row, : lengths[row]] = torch.tensor(example.input_ids, dtype=torch.int64)
        mask[row, : lengths[row]] = 1
    return Batch(
        input_ids=ids,
        position_ids=torch.arange(width).repeat(len(examples), 1),
        attention_mask=mask,
        document_lengths=tuple(lengths),
        samples=tuple(samples),
        **targets(examples, [row * width for row in range(len(examples))]),
    )
