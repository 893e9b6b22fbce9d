"""Models with the losses of judged answers: pairs (dpo), marked answers (kto) and scores (rm)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from burnish import log
from burnish.batch.collate import Batch
from burnish.losses import LossSum
from burnish.losses.kto import KLSum, kto_loss, mismatched_kl
from burnish.losses.preference import Pairs, preference_loss
from burnish.losses.reward import pairwise_reward_loss
from burnish.model.reward import value_head
from burnish.train.forward import last_hidden
from burnish.train.logprobs import answer_logprobs
from burnish.train.reference import Reference


class PairLoss(nn.Module):
    """A policy and its loss over pairs: documents 0, 2, 4, … of a batch are chosen, 1, 3, 5, … rejected.

    Args:
        reference: what the policy is compared with; None for losses that need none, and for batches that carry what
            it says (`Batch.reference`).
        options: of `burnish.losses.preference.preference_loss`.
    """

    def __init__(self, model: Any, *, packed: bool, reference: Reference | None, **options: Any) -> None:
        super().__init__()
        self.model, self.packed, self.reference, self.options = model, packed, reference, options

    def forward(self, batch: Batch) -> LossSum:
        """The summed loss over the pairs, and their number."""
        theirs = batch.reference
        if theirs is None and self.reference is not None:
            theirs = self.reference.logprobs(batch, packed=self.packed).total
        ours = answer_logprobs(self.model, batch, packed=self.packed)
        pairs = Pairs(
            ours.total[0::2],
            ours.total[1::2],
            ours.count[0::2],
            ours.count[1::2],
            None if theirs is None else theirs[0::2],
            None if theirs is None else theirs[1::2],
        )
        return preference_loss(pairs, **self.options)


class FeedbackLoss(nn.Module):
    """A policy and KTO's loss over answers marked 1 (desirable) or 0.

    In training the KL is estimated once for each optimizer step, by `measure`, so that how a global batch is cut into
    micro-batches does not change the gradient; in evaluation for each batch, from `Batch.mismatched`.

    Args:
        reference: what the policy is compared with.
        options: of `burnish.losses.kto.kto_loss`.

    Attributes:
        in_step: whether all ranks have to run the same forward passes; set by engines that cut weights into shards.
    """

    def __init__(self, model: Any, *, packed: bool, reference: Reference, **options: Any) -> None:
        super().__init__()
        self.model, self.packed, self.reference, self.options = model, packed, reference, options
        self.in_step = False
        self._kl: KLSum | None = None
        self._told = False

    def forward(
        self, batch: Batch | None, crossed: Sequence[Batch] = (), *, counted: int | None = None
    ) -> LossSum | KLSum:
        """The summed loss over the answers, and their number.

        With `counted` it is the KL of `crossed`, of which so many count: engines that cut weights into shards gather
        them for this method alone.
        """
        if counted is not None:
            return self._estimate(crossed, counted)
        assert batch is not None
        theirs = self.reference.logprobs(batch, packed=self.packed)
        kl = self._kl
        if kl is None or not self.training:
            crossed = [batch.mismatched] if batch.mismatched else []
            # Shards are gathered from all ranks, of which another one may have a batch to cross.
            kl = self._estimate(crossed or [batch] * self.in_step, counted=len(crossed))
        ours = answer_logprobs(self.model, batch, packed=self.packed)
        assert batch.marks is not None
        return kto_loss(ours.total, theirs.total, batch.marks > 0, kl, tokens=ours.count, **self.options)

    def measure(self, crossed: Sequence[Batch], accelerator: Any, wrapped: Any, *, counted: int) -> None:
        """Estimate the KL of an optimizer step, over all ranks, from prompts with the answers to other prompts.

        Args:
            crossed: this rank's batches, as many as every other rank's.
            wrapped: this module as the engine calls it.
            counted: how many of them count; the rest are run only because other ranks run theirs.
        """
        batches = [batch.to(accelerator.device) for batch in crossed]
        with torch.no_grad(), accelerator.autocast():
            found = (wrapped if self.in_step else self)(None, batches, counted=counted)
        if accelerator.num_processes > 1:
            found = KLSum(*accelerator.reduce(torch.stack([*found]), reduction="sum"))
        self._kl = found
        if not found.estimated and not self._told:
            log.note("a step has answers to one prompt only, so the KL in its loss is taken as 0")
            self._told = True

    def _estimate(self, crossed: Sequence[Batch], counted: int = 1) -> KLSum:
        total = count = torch.zeros((), device=next(self.model.parameters()).device)
        for place, batch in enumerate(crossed):
            theirs = self.reference.logprobs(batch, packed=self.packed)
            with torch.no_grad():
                ours = answer_logprobs(self.model, batch, packed=self.packed)
            if place >= counted:
                continue
            part = mismatched_kl(ours.total, theirs.total)
            total, count = total + part.total, count + part.count
        return KLSum(total, count)


class ScoreLoss(nn.Module):
    """A model with a value head and the loss of its scores over pairs, ordered as in PairLoss.

    Args:
        options: of `burnish.losses.reward.pairwise_reward_loss`.
    """

    def __init__(self, model: Any, *, packed: bool, **options: Any) -> None:
        super().__init__()
        self.model, self.packed, self.options = model, packed, options

    def forward(self, batch: Batch) -> LossSum:
        """The summed loss over the pairs, and their number."""
        scores = answer_scores(self.model, batch, packed=self.packed)
        margins = None if batch.marks is None else -batch.marks[1::2]
        return pairwise_reward_loss(scores[0::2], scores[1::2], margins=margins, **self.options)


def answer_scores(model: Any, batch: Batch, *, packed: bool) -> Tensor:
    """The score of each document's answer, [documents] float32, read at its last supervised token."""
    hidden = last_hidden(model, batch, packed=packed).flatten(0, 1)  # [B T, E]
    ends = torch.zeros(len(batch.document_lengths), dtype=torch.int64, device=hidden.device)
    ends = ends.scatter_reduce(0, batch.loss_documents, batch.loss_positions, "amax") + 1  # where the token itself is
    if batch.shared_prompts is not None:  # an answer of one token is predicted at the end of the prompt, elsewhere
        lengths = torch.tensor(batch.document_lengths, device=hidden.device)
        ends = torch.maximum(ends, lengths.cumsum(0) - lengths)
    return value_head(model)(hidden[ends])
