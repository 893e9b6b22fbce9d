"""Attention over kept keys and values: each row of a batch has a slot of its own and a length of its own.

New prompts come as one padding-free row and are written into their slots; after that every running row adds one token a
step. `cached_attention_reference` is the same as one softmax under an explicit mask, and defines what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.kernels.attention import attend_after, attention_named
from burnish.kernels.document_attention import attends_natively, document_attention
from burnish.kernels.written_out import causal_mask, softmax_attention

SLOTS = "burnish_slots"
_FIRST_ROOM = 256  # tokens a slot has room for at first; it doubles


@dataclass(frozen=True, slots=True)
class Prefill:
    """New tokens of some rows, packed: row i writes `lengths[i]` tokens into `slots[i]`, behind `starts[i]` kept ones.

    All keys that a token sees are in its own slot.
    """

    slots: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(slots=True)
class Decode:
    """One new token for each of the first rows.

    `places`: [B] int64, where each token stands in its row; `longest`: the longest row, the new token counted.
    """

    places: Tensor
    longest: int
    rows: Tensor = field(init=False)  # [B] int64: 0 … B - 1, made once for all layers
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = torch.arange(len(self.places), device=self.places.device)

    def mask(self, window: int | None) -> Tensor | None:
        """[B, 1, 1, L], True where a row's token may look; None when it may look everywhere."""
        if window not in self._masks:
            keys = torch.arange(self.longest, device=self.places.device)
            seen = keys <= self.places[:, None]  # [B, L]
            if window is not None:
                seen &= keys > self.places[:, None] - window
            self._masks[window] = None if bool(seen.all()) else seen[:, None, None]
        return self._masks[window]


class SlotStore:
    """Keys and values of all layers: [slots, H_kv, room, D] each, in the dtype that the model computes them in."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.room = 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def make_room(self, length: int) -> None:
        """See to it that each slot holds `length` tokens."""
        if length <= self.room:
            return
        self.room = max(_FIRST_ROOM, self.room)
        while self.room < length:
            self.room *= 2
        for kept in (self.keys, self.values):
            for layer, old in kept.items():
                kept[layer] = old.new_zeros((*old.shape[:2], self.room, old.shape[3]))
                kept[layer][:, :, : old.shape[2]] = old

    def write(self, layer: int, key: Tensor, value: Tensor, step: Prefill | Decode) -> tuple[Tensor, Tensor]:
        """Keep a step's keys and values, and return what its queries look at.

        Args:
            key, value: [1, H_kv, T, D] for a prefill, [B, H_kv, 1, D] for a decode.
        Returns:
            For a decode [B, H_kv, L, D], views; for a prefill the whole store of this layer, or the new tokens alone
            where nothing was kept before.
        """
        if layer not in self.keys:
            for kept, new in ((self.keys, key), (self.values, value)):
                kept[layer] = new.new_zeros((self.slots, new.shape[1], self.room, new.shape[3]))
        keys, values = self.keys[layer], self.values[layer]
        if isinstance(step, Decode):
            rows = step.rows
            keys[rows, :, step.places] = key[:, :, 0]
            values[rows, :, step.places] = value[:, :, 0]
            return keys[: len(rows), :, : step.longest], values[: len(rows), :, : step.longest]
        place = 0
        for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
            keys[slot, :, start : start + length] = key[0, :, place : place + length]
            values[slot, :, start : start + length] = value[0, :, place : place + length]
            place += length
        return (keys, values) if any(step.starts) else (key, value)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give `target` the first tokens of `source`."""
        for kept in (*self.keys.values(), *self.values.values()):
            kept[target, :, :length] = kept[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first tokens of two slots."""
        for kept in (*self.keys.values(), *self.values.values()):
            held = kept[one, :, :length].clone()
            kept[one, :, :length] = kept[other, :, :length]
            kept[other, :, :length] = held


def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    step: Prefill | Decode,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Each new token looks at its own row up to itself.

    Args:
        query: [1, H, T, D] for a prefill, [B, H, 1, D] for a decode.
        key, value: what `SlotStore.write` returned; H is a multiple of H_kv.
        window: tokens that a token may look back on, itself counted; None: all.
        softcap: scores s become c·tanh(s / c) (Gemma 2, arXiv:2408.00118, section 2).
        sinks: [H], a score for looking at nothing (gpt-oss), or None.
    Returns:
        as `query`.
    """
    if isinstance(step, Decode):
        rows, heads, _, size = query.shape
        shared = key.shape[1]
        # Queries that share keys stand as the positions of one head: nothing is repeated in memory.
        grouped = query.reshape(rows, shared, heads // shared, size)
        weights = None if sinks is None else sinks.reshape(1, shared, heads // shared, 1)
        mask = step.mask(window)
        if softcap is None and sinks is None:
            mixed = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
        else:
            mixed = softmax_attention(grouped, key, value, mask, scaling, softcap, weights)
        return mixed.reshape(rows, heads, 1, value.shape[-1])
    if not any(step.starts) and softcap is None and sinks is None and attends_natively(query, key, value):
        return document_attention(query, key, value, step.lengths, scaling, window)
    parts, place = [], 0
    for slot, start, length in zip(step.slots, step.starts, step.lengths, strict=True):
        asked = query[:, :, place : place + length]
        if any(step.starts):
            keys, values = (kept[slot : slot + 1, :, : start + length] for kept in (key, value))
        else:
            keys, values = key[:, :, place : place + length], value[:, :, place : place + length]
        parts.append(attend_after(asked, keys, values, scaling, 0.0, window, softcap, sinks))
        place += length
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def cached_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: int,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """One row by itself, as one softmax under its mask: [1, H, T, D] over keys [1, H_kv, start + T, D]."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    mask = causal_mask(start, query.shape[2], window, query.device)
    weights = None if sinks is None else sinks.reshape(1, -1, 1, 1)
    return softmax_attention(query, key, value, mask, scaling, softcap, weights)


def _attention_for_transformers(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    slot_step: Prefill | Decode | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers' attention registry expects; returns [B, T, H, D]."""
    assert slot_step is not None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = cached_attention(query, key, value, slot_step, scale, sliding_window, softcap, s_aux)
    return mixed.transpose(1, 2), None


def reason_not_cached(model: Any) -> str | None:
    """Why a model cannot use slots (it then generates in padded batches); None when it can."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{config.model_type} has no pluggable attention in transformers"
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd or getattr(config, "attention_chunk_size", None):
        return f"{config.model_type} uses {', '.join(sorted(odd)) or 'chunked attention'}"
    if getattr(config, "num_kv_shared_layers", None):
        return f"layers of {config.model_type} share keys and values"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):
        return "its scaling of positions depends on the longest row of a batch"
    if getattr(config, "is_encoder_decoder", False):
        return f"{config.model_type} has an encoder"
    return None


def slot_attention(model: Any) -> AbstractContextManager[None]:
    """While the block runs, the model's attention layers read slots and need `slot_step=…`."""
    from transformers import AttentionInterface

    AttentionInterface.register(SLOTS, _attention_for_transformers)
    return attention_named(model, SLOTS)


def slot_cache(store: SlotStore) -> Any:
    """`store` in the shape of a transformers cache; its `step` is set before each forward pass."""
    return _cache_class()(store)


@cache
def _cache_class() -> Any:
    """The class, made once: one made for each cache would keep its store until Python next collects cycles."""
    from transformers import Cache
    from transformers.cache_utils import DynamicLayer

    class SlotCache(Cache):
        step: Prefill | Decode

        def __init__(self, store: SlotStore) -> None:
            super().__init__(layer_class_to_replicate=DynamicLayer)
            self.store = store

        def update(
            self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            return self.store.write(layer_idx, key_states, value_states, self.step)

        def get_seq_length(self, *_: Any) -> int:
            return 0

    return SlotCache


def packed_positions(step: Prefill) -> Sequence[int]:
    """The place of each packed token in its own row."""
    return [start + place for start, length in zip(step.starts, step.lengths, strict=True) for place in range(length)]
