"""Token ids in, token ids out: batched sampling with a key-value cache; finished rows leave the batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.errors import ModelError
from burnish.generate.request import Completion, Sampling


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Collection[int],
    sampling: Sampling,
    batch_size: int = 8,
    pad_id: int = 0,
    on_token: Callable[[int, int], None] | None = None,
    on_done: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """Continue each prompt until a stop token or the limit.

    Args:
        model: a causal language model of transformers, in eval mode.
        prompts: token ids, none empty.
        batch_size: prompts at a time; prompts of like length go together.
        on_token: called with (prompt number, token id) as tokens come, stop tokens left out.
        on_done: called with (prompt number, completion) as prompts finish.
    Returns:
        One completion a prompt, in the order of the prompts.
    Raises:
        ModelError: an empty prompt, or one that leaves no room in the model's context.
    """
    _check(_window(model, sampling.max_length), prompts)
    results: list[Completion | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    random = torch.Generator(device="cpu")
    if sampling.seed is not None:
        random.manual_seed(sampling.seed)
    else:
        random.seed()
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, done in _run_batch(model, prompts, rows, stop_ids, sampling, pad_id, random, on_token):
                results[row] = done
                if on_done:
                    on_done(row, done)
    finally:
        model.train(was_training)
    return [result for result in results if result is not None]


def _window(model: Any, max_length: int | None) -> int:
    """Tokens that prompt and answer may have together."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    return min(positions, max_length or sys.maxsize)


def _check(window: int, prompts: Sequence[Sequence[int]]) -> None:
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise ModelError("cannot generate from an empty prompt", at=f"prompt {number}")
        if len(prompt) >= window:
            raise ModelError(
                f"the prompt has {len(prompt)} tokens, and prompt and answer may have {window}",
                at=f"prompt {number}",
                fix="shorten the conversation (in chat: /clear), or raise max_length if you set it",
            )


def _run_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    stop_ids: Collection[int],
    sampling: Sampling,
    pad_id: int,
    random: torch.Generator,
    on_token: Callable[[int, int], None] | None,
) -> Any:
    """Yield (prompt number, completion) as rows finish. Padding stands on the left, masked and without positions."""
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    width = max(len(prompts[row]) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, width - len(prompts[row]) :] = torch.tensor(list(prompts[row]), dtype=torch.int64)
        mask[place, width - len(prompts[row]) :] = 1
    ids, mask = ids.to(device), mask.to(device)  # [B, T]
    window = _window(model, sampling.max_length)
    seen = ids if sampling.repetition_penalty != 1.0 else None
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, T]
    cache = DynamicCache(config=model.config)
    made: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))  # places in `rows` that are still running
    for step in range(sampling.max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # [B, V]
        chosen = pick(logits.float(), sampling, random, seen, mask)  # [B]
        keep: list[int] = []
        for place, token in enumerate(chosen.tolist()):
            row = alive[place]
            full = step + 1 == sampling.max_new_tokens or len(prompts[rows[row]]) + step + 1 >= window
            if token in stop_ids:
                yield rows[row], Completion(made[row], True)
                continue
            made[row].append(token)
            if on_token:
                on_token(rows[row], token)
            if full:
                yield rows[row], Completion(made[row], False)
            else:
                keep.append(place)
        if not keep:
            return
        ids = chosen[:, None]  # [B, 1]
        if len(keep) < len(alive):
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            ids, mask, positions = ids[index], mask[index], positions[index]
            seen = seen[index] if seen is not None else None
            alive = [alive[place] for place in keep]
        mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
        positions = positions[:, -1:] + 1
        if seen is not None:
            seen = torch.cat([seen, ids], dim=1)


def pick(
    logits: Tensor,
    sampling: Sampling,
    random: torch.Generator,
    seen: Tensor | None = None,
    seen_mask: Tensor | None = None,
) -> Tensor:
    """Choose the next token of each row.

    Args:
        logits: [B, V] float32.  seen: [B, T] ids that have occurred, for the repetition penalty.
        seen_mask: [B, T], 0 where `seen` is padding.
    Returns:
        [B] int64.
    Source: nucleus sampling, Holtzman et al., arXiv:1904.09751; repetition penalty, Keskar et al.,
        arXiv:1909.05858, section 4.1.
    """
    if seen is not None and sampling.repetition_penalty != 1.0:
        occurred = torch.zeros_like(logits, dtype=torch.bool)
        real = torch.ones_like(seen) if seen_mask is None else seen_mask
        occurred.scatter_reduce_(1, seen, real.bool(), reduce="amax", include_self=True)
        penalized = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits = torch.where(occurred, penalized, logits)
    if not sampling.do_sample or sampling.temperature <= 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)  # [B, V]
    if 0 < sampling.top_k < logits.shape[-1]:
        least = probabilities.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    if sampling.top_p < 1.0:
        ordered, places = probabilities.sort(dim=-1, descending=True)
        total = ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered  # mass of the better tokens; the best one always stays
        ordered = ordered.masked_fill(before >= sampling.top_p * total, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(1, places, ordered)
    return torch.multinomial(probabilities.cpu(), 1, generator=random).squeeze(1).to(logits.device)
