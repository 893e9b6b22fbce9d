"""Attention over several documents in one padding-free row: no token of one document sees another.

The fast path gives each document its own causal attention call; `masked_attention_reference` is the same thing
as one big call with a block-diagonal mask, and defines what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from burnish.errors import ShapeError

PACKED = "burnish_packed"
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    document_lengths: Sequence[int],
    scaling: float,
    dropout: float = 0.0,
    shared_prompts: Sequence[int] | None = None,
) -> Tensor:
    """Causal attention inside each document of a packed row.

    Args:
        query: [1, H, T, D].  key, value: [1, H_kv, T, D], H a multiple of H_kv (grouped-query attention).
        document_lengths: tokens in each document, in order; they add up to T.
        scaling: multiplies the scores, usually D ** -0.5.
        dropout: probability of dropping an attention weight.
        shared_prompts: where documents come in pairs, how many tokens at the beginning of the first one the second
            sees too, as if they stood before its own (0: none); None where no document sees another.
    Returns:
        [1, H, T, D] in the query's dtype.
    Raises:
        ShapeError: the batch is not 1, or the lengths do not add up to T.
    """
    if query.shape[0] != 1 or sum(document_lengths) != query.shape[2]:
        raise ShapeError(f"documents {list(document_lengths)} do not fill a row of shape {tuple(query.shape)}")
    if dropout == 0 and shared_prompts is None and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return _Documents.apply(query, key, value, tuple(document_lengths), scaling)
    grouped = query.shape[1] != key.shape[1]
    lengths, parts = list(document_lengths), []
    # Split, not slices: the gradient of a slice is as long as the row, that of a split is one cat for all.
    queries, keys, values = (whole.split(lengths, dim=2) for whole in (query, key, value))
    for number, length in enumerate(lengths):
        asked, looked_at, read, mask = queries[number], keys[number], values[number], None
        prompt = shared_prompts[number // 2] if shared_prompts is not None and number % 2 else 0
        if prompt:
            before = keys[number - 1][:, :, :prompt], values[number - 1][:, :, :prompt]
            looked_at, read = torch.cat([before[0], looked_at], dim=2), torch.cat([before[1], read], dim=2)
            mask = torch.ones(length, prompt + length, dtype=torch.bool, device=query.device).tril(prompt)
        parts.append(
            F.scaled_dot_product_attention(
                asked,
                looked_at,
                read,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class _Documents(torch.autograd.Function):
    """PyTorch's flash attention for CPUs, a document at a time, into one tensor for all.

    Each document's own output would be kept beside their concatenation, which the layer behind keeps.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
        outputs = _in_rows(query)
        sums = []  # of each document the logarithms of its softmax's sums, [1, H, L]
        for asked, looked_at, read, out in _documents(lengths, query, key, value, outputs):
            mixed, logarithms = _flash.default(asked, looked_at, read, 0.0, True, scale=scale)
            out.copy_(mixed)
            sums.append(logarithms)
        ctx.save_for_backward(query, key, value, outputs, *sums)
        ctx.lengths, ctx.scale = lengths, scale
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, outputs, *sums = ctx.saved_tensors
        grads = [_in_rows(tensor) for tensor in (query, key, value)]
        parts = _documents(ctx.lengths, grad_outputs[0], query, key, value, outputs, *grads)
        for (slope, asked, looked_at, read, out, *into), logarithms in zip(parts, sums, strict=True):
            found = _flash_backward.default(slope, asked, looked_at, read, out, logarithms, 0.0, True, scale=ctx.scale)
            for grad, one in zip(into, found, strict=True):
                grad.copy_(one)
        return (*grads, None, None)


def _in_rows(like: Tensor) -> Tensor:
    """An empty [1, H, T, D] whose tokens lie one after another, as the layers before and behind have them."""
    _, heads, length, size = like.shape
    return like.new_empty(1, length, heads, size).transpose(1, 2)


def _documents(lengths: Sequence[int], *wholes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(whole.split(list(lengths), dim=2) for whole in wholes), strict=True)


def masked_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    document_lengths: Sequence[int],
    scaling: float,
    shared_prompts: Sequence[int] | None = None,
) -> Tensor:
    """The same as `packed_attention`, written as one softmax under a block-diagonal causal mask. [1, H, T, D]."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    lengths = torch.tensor(list(document_lengths), device=query.device)
    document = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), lengths)  # [T]
    seen = (document[:, None] == document[None, :]).tril()  # [T, T]
    for pair, prompt in enumerate(shared_prompts or ()):
        first = int(lengths[: 2 * pair].sum())
        seen[document == 2 * pair + 1, first : first + prompt] = True
    scores = (query @ key.transpose(-1, -2)).float() * scaling  # [1, H, T, T]
    return scores.masked_fill(~seen, float("-inf")).softmax(-1).to(value.dtype) @ value


def reads_shared_prompts(model: Any) -> bool:
    """Whether packed rows of this model go through `packed_attention`, which knows shared prompts."""
    return not model.config.get_text_config()._attn_implementation.startswith("flash_attention")


def _attention_for_transformers(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    document_lengths: Sequence[int] = (),
    shared_prompts: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers' attention registry expects; returns [1, T, H, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = packed_attention(query, key, value, document_lengths, scale, dropout, shared_prompts)
    return mixed.transpose(1, 2), None


# What an attention layer may ask for that the packed path does not do; a model that asks is trained padded.
_NEEDS_MORE = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size")


def reason_not_packed(model: Any) -> str | None:
    """Why a model cannot take packed rows (it is then trained on padded ones); None when it can."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{config.model_type} has no pluggable attention in transformers"
    if getattr(config, "use_sliding_window", None) is False:
        asks = [name for name in _NEEDS_MORE[1:] if getattr(config, name, None)]
    else:
        asks = [name for name in _NEEDS_MORE if getattr(config, name, None)]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if asks or kinds:
        return f"{config.model_type} uses {', '.join(asks) or ', '.join(sorted(kinds))}"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic":
        return "dynamic scaling of positions depends on the longest document in a row"
    if config.model_type in _SINKS:
        return f"{config.model_type} uses attention sinks"
    if config._attn_implementation == "eager":
        return "flash_attn: disabled asks for plain attention"
    return None


# Attention sinks reach a layer as an argument, not through the config, so the families are listed.
_SINKS = ("gpt_oss", "deepseek_v4", "flint", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash")


@contextmanager
def attention_named(model: Any, name: str) -> Iterator[None]:
    """While the block runs, the model's layers use the attention that transformers knows by this name."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def packed_rows(model: Any) -> Iterator[None]:
    """While the block runs, the model's attention layers take packed rows and need `document_lengths=…`.

    Backward passes belong inside the block too: gradient checkpointing runs the forward pass again.
    """
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    before = config._attn_implementation
    if before.startswith("flash_attention"):  # it takes packed rows by itself
        yield
        return
    AttentionInterface.register(PACKED, _attention_for_transformers)
    if before != PACKED:
        _USUAL[id(config)] = before
    try:
        with attention_named(model, PACKED):
            yield
    finally:
        if before != PACKED:
            del _USUAL[id(config)]


def padded_rows(model: Any) -> AbstractContextManager[None]:
    """While the block runs, inside one of `packed_rows`, the model reads padded rows as usual: to generate."""
    config = model.config.get_text_config()
    return attention_named(model, _USUAL.get(id(config), config._attn_implementation))


_USUAL: dict[int, str] = {}
"""Of each config in a block of `packed_rows`, the attention it has outside."""
