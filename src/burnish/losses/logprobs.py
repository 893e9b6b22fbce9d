"""Log-probabilities of tokens and of whole completions, over the flat supervised positions of packed rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.errors import ShapeError


class SequenceLogprobs(NamedTuple):
    """`total`: [S] float32, nats, <= 0.  `count`: [S] int64, supervised tokens of each sequence."""

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which nobody needs


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token under the logits of its own row.

    The inputs are already aligned: row i of `logits` predicts `targets[i]`.

    Args:
        logits: [N, V], any float dtype; the softmax runs in float32. A logit of -inf is a token of probability 0.
        targets: [N] int64 token ids.
    Returns:
        [N] float32, nats, <= 0.
    Raises:
        ShapeError: targets is not [N].
    Source: log pi(y_t | x, y_<t) = z_y - logsumexp(z).
    """
    if targets.shape != logits.shape[:1]:
        raise ShapeError(f"targets {tuple(targets.shape)} do not match logits {tuple(logits.shape)}")
    logits = logits.float()
    chosen = logits.gather(1, targets[:, None])[:, 0]  # [N]
    return chosen - logits.logsumexp(dim=1)


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the distribution of each row.

    Args:
        logits: [N, V], any float dtype; runs in float32. Tokens of probability 0 add nothing, nor to the gradient.
    Returns:
        [N] float32, nats, between 0 and ln V.
    Source: Shannon entropy H = -sum_v p_v log p_v.
    """
    logprobs = logits.float().log_softmax(dim=1)  # [N, V]
    impossible = torch.isneginf(logprobs)
    return -(logprobs.exp() * logprobs.masked_fill(impossible, 0.0)).sum(dim=1)


def sum_by(values: Tensor, index: Tensor, groups: int) -> Tensor:
    """Sum `values` [N] over the positions of each group in `index` [N] int64: [groups], the dtype of `values`."""
    if index.shape != values.shape or values.dim() != 1:
        raise ShapeError(f"index {tuple(index.shape)} does not match values {tuple(values.shape)}")
    return values.new_zeros(groups).index_add(0, index, values)


def sequence_logprobs(logprobs: Tensor, sequences: Tensor, n_sequences: int) -> SequenceLogprobs:
    """Sum the log-probabilities of each sequence's supervised tokens.

    Packed rows hold several sequences, so the supervised positions of a batch are one flat list with the number of the
    sequence that each belongs to. A -inf stays in its own sequence.

    Args:
        logprobs: [N] float, one a supervised token.
        sequences: [N] int64 in 0..n_sequences-1.
        n_sequences: S; a sequence without any position gets 0 and count 0.
    Raises:
        ShapeError: sequences is not [N].
    Source: log pi(y|x) in DPO eq. 7, arXiv:2305.18290.
    """
    logprobs = logprobs.float()
    return SequenceLogprobs(
        sum_by(logprobs, sequences, n_sequences), sum_by(torch.ones_like(sequences), sequences, n_sequences)
    )


def per_token(totals: Tensor, tokens: Tensor) -> Tensor:
    """`totals` [S] divided by `tokens` [S]; a sequence without tokens gives its total (0) and no division by zero."""
    if tokens.shape != totals.shape:
        raise ShapeError(f"token counts {tuple(tokens.shape)} do not match log-probabilities {tuple(totals.shape)}")
    return totals.float() / tokens.clamp(min=1)
