"""Attention as the papers write it: for what PyTorch's own attention does not do, and the masks that both read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(start: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """[T, start + T], True where new token t, at place start + t, may look."""
    places = torch.arange(start, start + length, device=device)[:, None]
    keys = torch.arange(start + length, device=device)
    seen = keys <= places
    return seen if window is None else seen & (keys > places - window)


def softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention written out, for what PyTorch's own does not do. [B, H, T, D], with as many heads of keys."""
    scores = (query @ key.transpose(-1, -2)).float() * scaling  # [B, H, T, L]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        shares = scores.softmax(-1)
    else:
        nothing = sinks.float().expand(*scores.shape[:-1], 1)
        shares = torch.cat([scores, nothing], dim=-1).softmax(-1)[..., :-1]
    return F.dropout(shares, dropout).to(value.dtype) @ value
