"""Biases and penalties of a request, as one function on the logits of the next token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Shape = Callable[[list[int], Tensor], Tensor]


def penalties(bias: Mapping[int, float], presence: float, frequency: float) -> Shape | None:
    """What `logit_bias`, `presence_penalty` and `frequency_penalty` do; None where they do nothing.

    `logits[t] + bias[t] - frequency * count(t) - presence * (count(t) > 0)`, with counts over the answer so far.
    Source: OpenAI's API reference, "Frequency and presence penalties".
    """
    if not bias and not presence and not frequency:
        return None

    def shape(sampled: list[int], logits: Tensor) -> Tensor:
        changes = dict(bias)
        if presence or frequency:
            for token, count in Counter(sampled).items():
                changes[token] = changes.get(token, 0.0) - presence - frequency * count
        if not changes:
            return logits
        places = torch.tensor(list(changes), device=logits.device)  # [C]
        return logits.index_add(0, places, logits.new_tensor(list(changes.values())))

    return shape


def one_after_another(shapes: list[Shape]) -> Shape | None:
    """All of them, in order; None for none."""
    if len(shapes) < 2:
        return shapes[0] if shapes else None

    def shape(sampled: list[int], logits: Tensor) -> Tensor:
        for each in shapes:
            logits = each(sampled, logits)
        return logits

    return shape
