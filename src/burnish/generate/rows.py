"""The rows that are being continued: their keys and values, and one step of the model for all of them.

`SlotRows` lets rows come and go at any time. `PaddedRows` is the plain way for models that cannot: one batch, padded on
the left, at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from burnish.generate.quick import QuickSteps, device_of
from burnish.kernels.cached_attention import Decode, Prefill, SlotStore, packed_positions, slot_attention, slot_cache

_WORTH_KEEPING = 16  # tokens in common from which on a finished row's keys are used again


class Rows(Protocol):
    """Rows 0 … count - 1 run. `admit` and `step` return float32 logits for the next token of each."""

    count: int

    def free(self) -> int:
        """Rows that may be admitted now."""

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        """Add each prompt as `copies` rows at the end; returns [prompts, V], the logits behind each prompt."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; returns [count, V]."""

    def drop(self, rows: Sequence[int]) -> list[int]:
        """Take rows out; returns for each row that stays, in its new order, the number that it had."""


class SlotRows:
    """Rows in slots. A finished row's keys stay until the slot is needed: a prompt that begins alike starts there."""

    def __init__(self, model: Any, slots: int) -> None:
        self.model = model
        self.count = 0
        self.store = SlotStore(slots)
        self.cache = slot_cache(self.store)
        self.kept: list[list[int]] = [[] for _ in range(slots)]  # the ids whose keys are in each slot
        self._quick = QuickSteps(model, slots)

    def free(self) -> int:
        return self.store.slots - self.count

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        slots, starts = [], []
        for prompt, number in zip(prompts, copies, strict=True):
            starts.append(self._place(prompt))
            slots.append(self.count)
            self.count += number
        self._quick.look()
        lengths = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
        step = Prefill(tuple(slots), tuple(starts), tuple(lengths))
        self.store.make_room(max(map(len, prompts)) + 1)
        ids = [token for prompt, start in zip(prompts, starts, strict=True) for token in prompt[start:]]
        device = device_of(self.model)
        ends = torch.tensor(lengths, device=device).cumsum(0) - 1
        logits = self._forward(step, torch.tensor([ids]), torch.tensor([packed_positions(step)]), ends)[0]
        for prompt, slot, number in zip(prompts, slots, copies, strict=True):
            for place in range(slot, slot + number):
                if place > slot:
                    self.store.copy(slot, place, len(prompt))
                self.kept[place] = list(prompt)
        return logits

    def _place(self, prompt: Sequence[int]) -> int:
        """Bring the best of the finished rows to the next slot; returns how many of its tokens can stay."""
        common = [_common(self.kept[slot], prompt) for slot in range(self.count, self.store.slots)]
        best = max(range(len(common)), key=common.__getitem__)
        if common[best] < _WORTH_KEEPING:
            return 0
        if best:
            one, other = self.count, self.count + best
            self.store.swap(one, other, max(len(self.kept[one]), len(self.kept[other])))
            self.kept[one], self.kept[other] = self.kept[other], self.kept[one]
        return common[best]

    def step(self, tokens: Sequence[int]) -> Tensor:
        places = [len(kept) for kept in self.kept[: self.count]]
        longest = max(places) + 1
        self.store.make_room(longest)
        for kept, token in zip(self.kept, tokens, strict=False):
            kept.append(token)
        return self._quick.step(tokens, places, self.store, lambda: self._plain_step(tokens, places, longest))

    def _plain_step(self, tokens: Sequence[int], places: Sequence[int], longest: int) -> Tensor:
        step = Decode(torch.tensor(places, device=device_of(self.model)), longest)
        return self._forward(step, torch.tensor([tokens]).T, torch.tensor([places]).T, 1)[:, -1]

    def _forward(self, step: Prefill | Decode, ids: Tensor, positions: Tensor, keep: Any) -> Tensor:
        device = device_of(self.model)
        self.cache.step = step
        with slot_attention(self.model):
            logits: Tensor = self.model(
                input_ids=ids.to(device),
                position_ids=positions.to(device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
                slot_step=step,
            ).logits
        return logits.float()

    def drop(self, rows: Sequence[int]) -> list[int]:
        order = list(range(self.count))
        for row in sorted(rows, reverse=True):
            last = self.count - 1
            if row < last:
                self.store.swap(row, last, max(len(self.kept[row]), len(self.kept[last])))
                self.kept[row], self.kept[last] = self.kept[last], self.kept[row]
                order[row] = order[last]
            order.pop()
            self.count -= 1
        return order


def _common(one: Sequence[int], prompt: Sequence[int]) -> int:
    """Leading tokens that both have; the prompt's last one is always left to be computed."""
    length = min(len(one), len(prompt) - 1)
    return next((place for place in range(length) if one[place] != prompt[place]), length)


class PaddedRows:
    """One batch at a time in transformers' own cache. Padding stands on the left, masked and without positions."""

    def __init__(self, model: Any, slots: int, pad_id: int) -> None:
        self.model, self.slots, self.pad_id = model, slots, pad_id
        self.count = 0
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.int64)  # [B, T]

    def free(self) -> int:
        return self.slots if self.count == 0 else 0

    def admit(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        from transformers import DynamicCache

        device, width = device_of(self.model), max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros((len(prompts), width), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            mask[row, width - len(prompt) :] = 1
        self.cache, self.mask = DynamicCache(config=self.model.config), mask.to(device)
        logits = self._forward(ids.to(device))
        repeats = torch.tensor(list(copies), device=device)
        self.count = sum(copies)
        if self.count > len(prompts):
            self.cache.batch_select_indices(torch.arange(len(prompts), device=device).repeat_interleave(repeats))
            self.mask = self.mask.repeat_interleave(repeats, dim=0)
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones((self.count, 1))], dim=1)
        return self._forward(torch.tensor([tokens]).T.to(self.mask.device))

    def _forward(self, ids: Tensor) -> Tensor:
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.float()

    def drop(self, rows: Sequence[int]) -> list[int]:
        gone = set(rows)
        order = [row for row in range(self.count) if row not in gone]
        self.count = len(order)
        if self.count:
            index = torch.tensor(order, device=self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask = self.mask[index]
        else:
            self.cache = None
        return order
