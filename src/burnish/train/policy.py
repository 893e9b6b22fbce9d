"""Models with the losses of sampled answers: groups (grpo), leave-one-out (rloo) and actor with critic (ppo)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from burnish.batch.collate import Batch, RolloutBatch
from burnish.kernels.linear_cross_entropy import rows_at_once
from burnish.kernels.linear_logprobs import linear_logprobs
from burnish.losses import LossSum
from burnish.losses.figures import mean_figure
from burnish.losses.logprobs import sequence_logprobs, token_entropy, token_logprobs
from burnish.losses.policy import grpo_loss, ppo_policy_loss, ppo_value_loss, rloo_loss
from burnish.model.adapter import head_weight
from burnish.model.reward import value_head
from burnish.model.save import without_adapter
from burnish.train.forward import before_the_loss, last_hidden


class Said(NamedTuple):
    """What a policy says of N sampled tokens: `logprobs` [N] and `entropy` [N] in nats, `values` [N] or None."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None


def ask_policy(model: Any, batch: Batch, *, packed: bool, temperature: float, values: bool = False) -> Said:
    """Log-probability, entropy and value at each target of a batch, under the policy at a temperature.

    Args:
        temperature: divides the logits, as it did when the tokens were sampled.
        values: also ask the value head, at the positions where the tokens were chosen.
    """
    if values:
        # One forward pass gives both: the head of the language model is put on the hidden states here.
        head = without_adapter(model).get_output_embeddings()
        rows = last_hidden(model, batch, packed=packed).flatten(0, 1)[batch.loss_positions]  # [N, E]
        weight = head_weight(head)
        found = rows if weight is not None else head(rows)
        return Said(*_of_logits(found / temperature, weight, batch.loss_targets), value_head(model)(rows))
    found, weight = before_the_loss(model, batch, packed=packed)
    return Said(*_of_logits(found / temperature, weight, batch.loss_targets), None)


def _of_logits(found: Tensor, weight: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies from logits [N, V], or from hidden states [N, E] and the head [V, E]."""
    if weight is None:
        with torch.no_grad():
            entropy = token_entropy(found)
        return token_logprobs(found, targets), entropy
    logprobs = linear_logprobs(found, weight, targets)
    with torch.no_grad():
        parts = found.detach().split(rows_at_once(weight))
        entropy = torch.cat([token_entropy(part @ weight.to(part.dtype).T) for part in parts])
    return logprobs, entropy


class PolicyLoss(nn.Module):
    """A policy and its loss over sampled answers, each document of a batch being one.

    Args:
        temperature: at which the answers were sampled.
    """

    values = False  # whether a value head is trained besides

    def __init__(self, model: Any, *, packed: bool, temperature: float, **options: Any) -> None:
        super().__init__()
        self.model, self.packed, self.temperature, self.options = model, packed, temperature, options

    def forward(self, batch: RolloutBatch) -> LossSum:
        """The summed loss, what it is divided by, and the figures of the stage with the entropy a token."""
        said = ask_policy(self.model, batch, packed=self.packed, temperature=self.temperature, values=self.values)
        loss = self.loss(said, batch)
        return loss._replace(figures={**loss.figures, "entropy": mean_figure(said.entropy)})

    def loss(self, said: Said, batch: RolloutBatch) -> LossSum:
        """The loss of the stage."""
        raise NotImplementedError


class GroupLoss(PolicyLoss):
    """GRPO and its relatives; options are those of `burnish.losses.policy.grpo_loss`."""

    def loss(self, said: Said, batch: RolloutBatch) -> LossSum:
        return grpo_loss(
            said.logprobs,
            batch.old_logprobs,
            batch.advantages,
            batch.loss_documents,
            ref_logprobs=batch.ref_logprobs,
            **self.options,
        )


class LeaveOneOutLoss(PolicyLoss):
    """RLOO; options are those of `burnish.losses.policy.rloo_loss`."""

    def loss(self, said: Said, batch: RolloutBatch) -> LossSum:
        documents = len(batch.document_lengths)
        ours = sequence_logprobs(said.logprobs, batch.loss_documents, documents).total
        old = batch.old_logprobs
        before = ours.detach() if old is None else sequence_logprobs(old, batch.loss_documents, documents).total
        return rloo_loss(ours, before, batch.advantages, **self.options)


class ActorCriticLoss(PolicyLoss):
    """PPO with its value head.

    Args:
        clip_range, value_clip_range: as in `ppo_policy_loss` and `ppo_value_loss`.
        value_weight: of the value head's loss in the sum.
    """

    values = True

    def __init__(
        self,
        model: Any,
        *,
        packed: bool,
        temperature: float,
        clip_range: float,
        value_clip_range: float,
        value_weight: float,
    ) -> None:
        super().__init__(model, packed=packed, temperature=temperature)
        self.clip_range, self.value_clip_range, self.value_weight = clip_range, value_clip_range, value_weight

    def loss(self, said: Said, batch: RolloutBatch) -> LossSum:
        assert said.values is not None
        assert batch.old_logprobs is not None
        assert batch.old_values is not None
        assert batch.returns is not None
        every = torch.ones_like(said.logprobs, dtype=torch.bool)
        policy = ppo_policy_loss(said.logprobs, batch.old_logprobs, batch.advantages, every, clip_range=self.clip_range)
        value = ppo_value_loss(said.values, batch.old_values, batch.returns, every, clip_range=self.value_clip_range)
        figures = {
            **policy.figures,
            **value.figures,
            "loss_policy": (policy.total.detach(), policy.count),
            "loss_value": (value.total.detach(), value.count),
        }
        return LossSum(policy.total + self.value_weight * value.total, policy.count, figures)
