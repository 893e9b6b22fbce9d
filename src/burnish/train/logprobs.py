"""Log-probabilities of answers under a causal language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from burnish.batch.collate import Batch
from burnish.kernels.linear_logprobs import linear_logprobs
from burnish.losses.logprobs import SequenceLogprobs, sequence_logprobs, token_logprobs
from burnish.train.forward import before_the_loss


def batch_logprobs(model: Any, batch: Batch, *, packed: bool) -> Tensor:
    """Log-probability of each supervised token of a batch, [N] float32, nats; logits exist a chunk at a time."""
    found, weight = before_the_loss(model, batch, packed=packed)
    if weight is None:
        return token_logprobs(found, batch.loss_targets)
    return linear_logprobs(found, weight, batch.loss_targets)


def answer_logprobs(model: Any, batch: Batch, *, packed: bool) -> SequenceLogprobs:
    """The summed log-probabilities of each document's supervised tokens, and how many they are, [documents]."""
    logprobs = batch_logprobs(model, batch, packed=packed)
    return sequence_logprobs(logprobs, batch.loss_documents, len(batch.document_lengths))
