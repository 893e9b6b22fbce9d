"""Sampling answers with the model that is trained, and asking models about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.batch.collate import Layout, collate
from burnish.generate import Completion, Sampling, generate
from burnish.generate.vllm import VllmSampler
from burnish.kernels.attention import packed_rows, padded_rows
from burnish.model.merge import merged_weights
from burnish.model.reward import value_head_apart
from burnish.model.save import without_adapter
from burnish.template import ChatTemplate, Example
from burnish.train.engine import Engine
from burnish.train.policy import ask_policy
from burnish.train.reference import Reference
from burnish.train.whole import WholeCopy


@dataclass(frozen=True)
class Policy:
    """The model that is trained, as the one that samples.

    Args:
        model: with its adapters, outside of what the engine wraps around it; that of `copy` where there is one.
        slots: answers that are sampled at a time.
        rows: answers in one forward pass when the models are asked about them.
        other: what samples instead, with weights of its own, which `ready` brings it; None for our own engine.
        copy: holds whole weights in `ready`, where those of the trained model are cut into shards.
    """

    model: Any
    template: ChatTemplate
    layout: Layout
    sampling: Sampling
    engine: Engine
    slots: int
    rows: int
    other: VllmSampler | None = None
    copy: WholeCopy | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """In this block what samples has the weights as they are now; entered by all processes together."""
        with ExitStack() as stack:
            if self.copy is not None:
                stack.enter_context(self.copy.filled())
                if self.layout.packed:
                    stack.enter_context(packed_rows(without_adapter(self.model)))
            if self.other is not None:
                with torch.no_grad(), value_head_apart(self.model):
                    self.other.update(merged_weights(self.model))
            yield

    def answers(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], copies: int) -> list[list[Completion]]:
        """`copies` answers to each prompt; each depends on its prompt and seed alone, whatever else is sampled."""
        asked: dict[str, Any] = {
            **{"stop_ids": self.template.stop_ids, "sampling": self.sampling, "batch_size": self.slots},
            **{"copies": copies, "pad_id": self.layout.pad_id, "seeds": seeds},
        }
        if self.other is not None:
            found = self.other.generate(prompts, **asked)
        else:
            with padded_rows(without_adapter(self.model)), self.engine.autocast():
                found = generate(self.model, prompts, **asked)
        return [found[start : start + copies] for start in range(0, len(found), copies)]

    def said(
        self, examples: Sequence[Example], *, reference: Reference | None, old: bool, values: bool
    ) -> dict[str, list[Tensor]]:
        """What the models say of the tokens of each answer: tensors [tokens of the answer], on the CPU.

        Args:
            old: ask the policy as it is now.  values: its value head too.  reference: asked where there is one.
        """
        parts: dict[str, list[Tensor]] = {}
        if old:
            asked = self._each(examples, lambda batch: self._ask(batch, values))
            parts["old_logprobs"] = [one[0] for one in asked]
            if values:
                parts["old_values"] = [one[1] for one in asked]
        if reference is not None:
            packed = self.layout.packed

            def ask(batch: Any) -> tuple[Tensor, ...]:
                with reference.asked(packed=packed) as model:
                    found = ask_policy(model, batch, packed=packed, temperature=self.sampling.temperature)
                return (found.logprobs,)

            parts["ref_logprobs"] = [one[0] for one in self._each(examples, ask)]
        return parts

    def _ask(self, batch: Any, values: bool) -> tuple[Tensor, ...]:
        training = self.model.training
        self.model.eval()
        try:
            found = ask_policy(
                self.model,
                batch,
                packed=self.layout.packed,
                temperature=self.sampling.temperature,
                values=values,
            )
        finally:
            self.model.train(training)
        return (found.logprobs,) if found.values is None else (found.logprobs, found.values)

    def _each(self, examples: Sequence[Example], ask: Callable[[Any], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """What `ask` gives for batches of examples, cut into the examples."""
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, len(examples), self.rows):
            part = examples[start : start + self.rows]
            batch = collate(part, (), self.layout).to(self.engine.device)
            with torch.no_grad(), self.engine.autocast():
                given = ask(batch)
            lengths = [example.supervised for example in part]
            found += zip(*(one.float().cpu().split(lengths) for one in given), strict=True)
        return found
