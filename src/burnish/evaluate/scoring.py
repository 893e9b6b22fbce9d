"""How likely a model finds given continuations: many of them at once, logits a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.kernels.attention import packed_rows, reason_not_packed
from burnish.kernels.linear_cross_entropy import linear_cross_entropy
from burnish.losses import token_cross_entropy
from burnish.model.adapter import head_weight, only_a_head
from burnish.model.save import without_adapter

TOKENS_AT_ONCE = 8192
_WHOLE_LOGITS = 1024  # tokens at once for models whose own forward pass must make the logits, all of them


class Continuation(NamedTuple):
    """What was there, and what may follow; neither is empty."""

    context: tuple[int, ...]
    ids: tuple[int, ...]


class Likelihood(NamedTuple):
    """`nats`: the summed log-probability, <= 0. `greedy`: whether each token was the likeliest one in its place."""

    nats: float
    greedy: bool


class _Row(NamedTuple):
    ids: tuple[int, ...]
    numbers: list[int]  # of the continuations that are read off this row


@torch.inference_mode()
def likelihoods(
    model: Any,
    continuations: Sequence[Continuation],
    *,
    window: int,
    tokens_at_once: int = TOKENS_AT_ONCE,
    rows_at_once: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Likelihood]:
    """Log-probabilities of continuations after their contexts.

    Continuations that differ in their last token only, such as the letters of a choice, share one row. Rows lie behind
    one another without padding where the model can take that, else in padded batches.

    Args:
        model: a causal language model of transformers, in eval mode.
        window: most tokens that the model reads; a longer context loses its beginning.
        tokens_at_once: of one forward pass, padding counted; a single row may be longer.
        rows_at_once: most rows of one forward pass; None for no such limit.
        on_done: called with the number of continuations that have just been scored.
    Returns:
        One for each continuation, in order.
    Raises:
        ValueError: a context or a continuation is empty, or a continuation is longer than the window.
    Source: log p(y | x) = sum over t of log softmax(logits)[y_t].
    """
    rows: dict[tuple[int, ...], _Row] = {}
    for number, (context, ids) in enumerate(continuations):
        if not context or not 0 < len(ids) <= window:
            raise ValueError(f"continuation {number}: {len(context)} + {len(ids)} tokens, window {window}")
        read = (*context, *ids)[-(window + 1) : -1]
        rows.setdefault(read, _Row(read, [])).numbers.append(number)
    found: list[Likelihood | None] = [None] * len(continuations)
    inner = without_adapter(model)
    packed = reason_not_packed(inner) is None and "flash" not in inner.config.get_text_config()._attn_implementation
    if not only_a_head(inner):
        tokens_at_once = min(tokens_at_once, _WHOLE_LOGITS)
    for batch in _batches(sorted(rows.values(), key=lambda row: -len(row.ids)), packed, tokens_at_once, rows_at_once):
        asked = [(place, number) for place, row in enumerate(batch) for number in row.numbers]
        targets = [continuations[number].ids for _, number in asked]
        scores = _score(model, [row.ids for row in batch], [place for place, _ in asked], targets, packed)
        for (_, number), score in zip(asked, scores, strict=True):
            found[number] = score
        on_done(len(asked))
    return [each for each in found if each is not None]


def _batches(rows: Sequence[_Row], packed: bool, tokens: int, most: int | None) -> Iterator[list[_Row]]:
    """Rows, the longest first, in groups that fit into one forward pass."""
    batch: list[_Row] = []
    total = 0
    for row in rows:
        size = len(row.ids) if packed else len((batch or [row])[0].ids)  # padded ones are all as long as the first
        if batch and (total + size > tokens or len(batch) == most):
            yield batch
            batch, total = [], 0
            size = len(row.ids)
        batch.append(row)
        total += size
    if batch:
        yield batch


def _score(
    model: Any, rows: Sequence[tuple[int, ...]], places: Sequence[int], targets: Sequence[tuple[int, ...]], packed: bool
) -> list[Likelihood]:
    """Score targets; `places[i]` is the row at whose end target i is predicted."""
    inner = without_adapter(model)
    device = inner.get_input_embeddings().weight.device
    lengths = [len(row) for row in rows]
    arguments = _packed(rows, device) if packed else _padded(rows, device)
    starts = (
        [sum(lengths[:row]) for row in range(len(rows))] if packed else [row * max(lengths) for row in range(len(rows))]
    )
    positions = [
        starts[place] + lengths[place] - len(target) + step
        for place, target in zip(places, targets, strict=True)
        for step in range(len(target))
    ]
    wanted = torch.tensor([token for target in targets for token in target], device=device)  # [N]
    with packed_rows(inner) if packed else nullcontext():
        nats, hits = _token_scores(inner, arguments, torch.tensor(positions, device=device), wanted)
    scores, begin = [], 0
    for target in targets:
        part = slice(begin, begin + len(target))
        scores.append(Likelihood(-float(nats[part].double().sum()), bool(hits[part].all())))
        begin += len(target)
    return scores


def _token_scores(inner: Any, arguments: dict[str, Any], positions: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of each wanted token: -log p [N] float32, and whether it was the likeliest [N] bool. `positions` are flat."""
    head = inner.get_output_embeddings()
    weight = head_weight(head) if only_a_head(inner) else None
    if weight is not None:
        hidden = getattr(inner, inner.base_model_prefix)(**arguments).last_hidden_state  # [B, T, E]
        ones = torch.ones(len(wanted), device=wanted.device)
        losses = linear_cross_entropy(hidden.flatten(0, 1)[positions], weight, wanted, ones, want_hits=True)
        assert losses.hits is not None
        return losses.nats, losses.hits
    logits = inner(**arguments).logits.flatten(0, 1)[positions].float()  # [N, V]
    losses = token_cross_entropy(logits, wanted, want_hits=True)
    assert losses.hits is not None
    return losses.nats, losses.hits


def _packed(rows: Sequence[tuple[int, ...]], device: Any) -> dict[str, Any]:
    """One row of all documents, with the places of their tokens."""
    lengths = tuple(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row]], device=device),
        "position_ids": torch.tensor([[place for length in lengths for place in range(length)]], device=device),
        "document_lengths": lengths,
        "use_cache": False,
    }


def _padded(rows: Sequence[tuple[int, ...]], device: Any) -> dict[str, Any]:
    """Rows padded on the right; padding is masked by length, so any id serves."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
