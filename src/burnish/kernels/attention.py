"""Attention over several documents in one padding-free row: no token of one document sees another.

The fast path gives each document its own causal attention: by our kernel in float32 on a CPU, by PyTorch's elsewhere.
`masked_attention_reference` is the same thing as one big call with a block-diagonal mask, and defines what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from burnish.errors import ShapeError
from burnish.kernels.document_attention import attends_natively, document_attention, in_rows
from burnish.kernels.written_out import causal_mask, softmax_attention

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
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention inside each document of a packed row.

    Args:
        query: [1, H, T, D].  key, value: [1, H_kv, T, D], H a multiple of H_kv (grouped-query attention).
        document_lengths: tokens in each document, in order; they add up to T.
        scaling: multiplies the scores, usually D ** -0.5.
        dropout: probability of dropping an attention weight.
        shared_prompts: where documents come in pairs, how many tokens at the beginning of the first one the second
            sees too, as if they stood before its own (0: none); None where no document sees another.
        window, softcap, sinks: as `cached_attention` has them.
    Returns:
        [1, H, T, D] in the query's dtype.
    Raises:
        ShapeError: the batch is not 1, or the lengths do not add up to T.
    """
    if query.shape[0] != 1 or sum(document_lengths) != query.shape[2]:
        raise ShapeError(f"documents {list(document_lengths)} do not fill a row of shape {tuple(query.shape)}")
    lengths, parts = list(document_lengths), []
    usual = dropout == 0 and softcap is None and sinks is None
    if usual and attends_natively(query, key, value):
        return document_attention(query, key, value, lengths, scaling, window, shared_prompts)
    usual = usual and shared_prompts is None and (window is None or max(lengths) <= window)
    if usual and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return _ByFlash.apply(query, key, value, tuple(lengths), scaling)
    # Split, not slices: the gradient of a slice is as long as the row, that of a split is one cat for all.
    queries, keys, values = (whole.split(lengths, dim=2) for whole in (query, key, value))
    for number, asked in enumerate(queries):
        looked_at, read = keys[number], values[number]
        prompt = shared_prompts[number // 2] if shared_prompts is not None and number % 2 else 0
        if prompt:
            before = keys[number - 1][:, :, :prompt], values[number - 1][:, :, :prompt]
            looked_at, read = torch.cat([before[0], looked_at], dim=2), torch.cat([before[1], read], dim=2)
        parts.append(attend_after(asked, looked_at, read, scaling, dropout, window, softcap, sinks))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


_QUERIES = 512
"""Queries that look at once where there is a window: the scores of a long document are never there as a whole."""


def attend_after(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One document: its tokens, [1, H, L, D], look at the P first of [1, H_kv, P + L, D] and causally at their own.

    The other arguments are those of `packed_attention`.
    """
    length, before = query.shape[2], key.shape[2] - query.shape[2]
    plain = softcap is None and sinks is None
    if plain and (window is None or key.shape[2] <= window):
        mask = causal_mask(before, length, None, query.device) if before else None
        return _attend(query, key, value, mask, scaling, dropout)
    parts = []
    for start in range(0, length, _QUERIES):
        asked = query[:, :, start : start + _QUERIES]
        end = before + start + asked.shape[2]
        first = 0 if window is None else max(0, before + start + 1 - window)
        looked_at, read = key[:, :, first:end], value[:, :, first:end]
        mask = causal_mask(before + start - first, asked.shape[2], window, query.device)
        if plain:
            parts.append(_attend(asked, looked_at, read, mask, scaling, dropout))
        else:  # made again in the backward pass: the scores are far larger than all else that a layer keeps
            given = asked, looked_at, read, mask, scaling, softcap, sinks, dropout
            parts.append(checkpoint(_written_out, *given, use_reentrant=False, preserve_rng_state=dropout > 0))
    return torch.cat(parts, dim=2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, *rest: Any) -> Tensor:
    softcap, sinks, dropout = rest
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    weights = None if sinks is None else sinks.reshape(1, -1, 1, 1)
    return softmax_attention(query, key, value, mask, scaling, softcap, weights, dropout)


class _ByFlash(torch.autograd.Function):
    """PyTorch's flash attention for CPUs, a document at a time, into one tensor for all.

    Each document's own output would be kept beside their concatenation, which the layer behind keeps.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
        outputs = in_rows(query)
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
        grads = [in_rows(tensor) for tensor in (query, key, value)]
        parts = _documents(ctx.lengths, grad_outputs[0], query, key, value, outputs, *grads)
        for (slope, asked, looked_at, read, out, *into), logarithms in zip(parts, sums, strict=True):
            found = _flash_backward.default(slope, asked, looked_at, read, out, logarithms, 0.0, True, scale=ctx.scale)
            for grad, one in zip(into, found, strict=True):
                grad.copy_(one)
        return (*grads, None, None)


def _documents(lengths: Sequence[int], *wholes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(whole.split(list(lengths), dim=2) for whole in wholes), strict=True)


def masked_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    document_lengths: Sequence[int],
    scaling: float,
    shared_prompts: Sequence[int] | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same as `packed_attention`, written as one softmax under a block-diagonal causal mask. [1, H, T, D]."""
    lengths = torch.tensor(list(document_lengths), device=query.device)
    document = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), lengths)  # [T]
    starts = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    places = torch.arange(len(document), device=query.device) - starts  # [T], within the document
    distance = places[:, None] - places[None, :]
    seen = (document[:, None] == document[None, :]) & (distance >= 0)  # [T, T]
    for pair, prompt in enumerate(shared_prompts or ()):
        first, second = document == 2 * pair, document == 2 * pair + 1
        begin = first & (places < prompt)
        distance[second[:, None] & begin[None, :]] += prompt  # its own tokens stand behind the prompt
        seen |= second[:, None] & begin[None, :]
    if window is not None:
        seen &= distance < window
    return _written_out(query, key, value, seen, scaling, softcap, sinks, 0.0)


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
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers' attention registry expects; returns [1, T, H, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    special = sliding_window, softcap, s_aux
    mixed = packed_attention(query, key, value, document_lengths, scale, dropout, shared_prompts, *special)
    return mixed.transpose(1, 2), None


_TELLING = frozenset(
    (
        *("cohere2", "exaone4", "gemma2", "gemma3_text", "gpt_oss", "ministral", "ministral3", "mistral", "mixtral"),
        *("olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
    )
)
"""Families whose layers hand their window, soft cap and sinks to the attention: they are not in a mask alone."""
_SPECIAL = ("sliding_window", "attn_logit_softcapping")
# Attention sinks reach a layer as an argument, not through the config, so the families are listed.
_SINKS = ("gpt_oss", "deepseek_v4", "flint", "granite_swa", "granitemoe_swa", "hy_v4", "mimo_v2_flash")
_KINDS = frozenset(("full_attention", "sliding_attention"))


def reason_not_packed(model: Any) -> str | None:
    """Why a model cannot take packed rows (it is then trained on padded ones); None when it can."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{config.model_type} has no pluggable attention in transformers"
    kinds = set(getattr(config, "layer_types", None) or ()) - _KINDS
    if kinds or getattr(config, "attention_chunk_size", None):
        return f"{config.model_type} uses {', '.join(sorted(kinds)) or 'attention_chunk_size'}"
    if getattr(config, "use_bidirectional_attention", False):
        return f"{config.model_type} looks both ways"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic":
        return "dynamic scaling of positions depends on the longest document in a row"
    asks = _special(config)
    if asks and (config.model_type not in _TELLING or config is not model.config):
        return f"{config.model_type} uses {', '.join(asks)}"
    # A family that PyTorch's attention does not fit is loaded with plain attention without being asked for it.
    if config._attn_implementation == "eager" and (getattr(model, "_supports_sdpa", False) or not asks):
        return "flash_attn: disabled asks for plain attention"
    return None


def _special(config: Any) -> list[str]:
    """What a model's attention does besides looking back at all, in words."""
    names = _SPECIAL[1:] if getattr(config, "use_sliding_window", None) is False else _SPECIAL
    asks = [name for name in names if getattr(config, name, None)]
    if not asks and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        asks.append("sliding_attention")
    return asks + ["attention sinks"] * (config.model_type in _SINKS)


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
