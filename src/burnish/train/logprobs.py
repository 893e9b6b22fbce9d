"""Log-probabilities of answers under a causal language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from burnish.batch.collate import Batch
from burnish.kernels.linear_logprobs import linear_logprobs
from burnish.losses.logprobs import SequenceLogprobs, sequence_logprobs, token_logprobs
from burnish.model.save import without_adapter
from burnish.train.forward import has_plain_head, last_hidden, supervised_logits


def batch_logprobs(model: Any, batch: Batch, *, packed: bool) -> Tensor:
    """Log-probability of each supervised token of a batch, [N] float32, nats; logits exist a chunk at a time."""
    inner = without_adapter(model)
    if not has_plain_head(inner):
        return token_logprobs(supervised_logits(model, batch, packed=packed), batch.loss_targets)
    hidden = last_hidden(model, batch, packed=packed).flatten(0, 1)[batch.loss_positions]  # [N, E]
    return linear_logprobs(hidden, inner.get_output_embeddings().weight, batch.loss_targets)


def answer_logprobs(model: Any, batch: Batch, *, packed: bool) -> SequenceLogprobs:
    """The summed log-probabilities of each document's supervised tokens, and how many they are, [documents]."""
    logprobs = batch_logprobs(model, batch, packed=packed)
    return sequence_logprobs(logprobs, batch.loss_documents, len(batch.document_lengths))
