"""From logits to the next token of each row, and what the model thought of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from burnish.generate.request import Sampling


def choose(
    logits: Tensor,
    samplings: Sequence[Sampling],
    draws: Sequence[random.Random | None],
    seen: Sequence[Sequence[int]] = (),
) -> tuple[Tensor, Tensor]:
    """Choose the next token of each row.

    Each row draws one number from its own source, so that its tokens do not depend on the rows beside it.

    Args:
        logits: [B, V] float32.
        samplings: how each row chooses.
        draws: each row's source of random numbers; None for a greedy row.
        seen: the ids that have occurred in each row, for the repetition penalty; empty where no row asks for it.
    Returns:
        tokens: [B] int64.
        logprobs: [B, V] float32, nats, at each row's temperature (1 for a greedy row), before top-k and top-p.
    Source: nucleus sampling, Holtzman et al., arXiv:1904.09751; repetition penalty, Keskar et al.,
        arXiv:1909.05858, section 4.1.
    """
    logits = _penalized(logits, samplings, seen)
    warm = [sampling.do_sample and sampling.temperature > 0 for sampling in samplings]
    if any(hot and sampling.temperature != 1.0 for hot, sampling in zip(warm, samplings, strict=True)):
        heat = [sampling.temperature if hot else 1.0 for hot, sampling in zip(warm, samplings, strict=True)]
        logits = logits / torch.tensor(heat, device=logits.device)[:, None]
    logprobs = logits.log_softmax(-1)
    tokens = logprobs.argmax(-1)
    drawing = [row for row, hot in enumerate(warm) if hot]
    if drawing:
        rows = torch.tensor(drawing, device=logits.device)
        numbers = [_number(draws[row]) for row in drawing]
        tokens[rows] = _draw(logprobs[rows].exp(), [samplings[row] for row in drawing], numbers)
    return tokens, logprobs


def _number(source: random.Random | None) -> float:
    assert source is not None
    return source.random()


def _penalized(logits: Tensor, samplings: Sequence[Sampling], seen: Sequence[Sequence[int]]) -> Tensor:
    rows = [row for row, sampling in enumerate(samplings) if sampling.repetition_penalty != 1.0]
    if not rows:
        return logits
    logits = logits.clone()
    for row in rows:
        ids = torch.tensor(sorted(set(seen[row])), device=logits.device)
        penalty, old = samplings[row].repetition_penalty, logits[row, ids]
        logits[row, ids] = torch.where(old > 0, old / penalty, old * penalty)
    return logits


def _draw(probabilities: Tensor, samplings: Sequence[Sampling], numbers: Sequence[float]) -> Tensor:
    """Draw from each row of [B, V] by the inverse of its distribution function at `numbers`, in [0, 1)."""
    for row, sampling in enumerate(samplings):
        if 0 < sampling.top_k < probabilities.shape[-1]:
            least = probabilities[row].topk(sampling.top_k).values[-1]
            probabilities[row].masked_fill_(probabilities[row] < least, 0.0)
        if sampling.top_p < 1.0:
            ordered, places = probabilities[row].sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # mass of the better tokens; the best one always stays
            probabilities[row, places[before >= sampling.top_p * ordered.sum()]] = 0.0
    # Double precision: in single the sum over a large vocabulary loses its small terms.
    total = probabilities.double().cumsum(-1)  # [B, V]
    wanted = torch.tensor(numbers, dtype=torch.float64, device=total.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, wanted, right=True).squeeze(1).clamp(max=total.shape[-1] - 1)
