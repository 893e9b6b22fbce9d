"""KTO: learning from single completions that are each marked desirable or undesirable."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import LossSum, Ranked
from burnish.losses.figures import mean_figure, summed
from burnish.losses.logprobs import per_token

BALANCED = (1.0, 4 / 3)
"""Where (desirable weight x n_desirable) / (undesirable weight x n_undesirable) should lie; arXiv:2402.01306, eq. 8."""


def mismatched_partners(prompts: Sequence[Hashable]) -> list[int | None]:
    """For each sample of a batch, the sample whose completion is scored after its prompt to estimate the KL.

    A partner never has the same prompt, so never is the sample itself. Where it can be, every completion is used once
    (no prompt fills more than half of the batch); where it cannot, completions are used twice before a sample goes
    without. The same batch always gives the same pairs, whatever its size or parity.

    Args:
        prompts: one key a sample; samples with equal keys share a prompt.
    Returns:
        indices into the batch; None for a sample that has no mismatched partner: all of them in a batch of one, or of
        one prompt. Such samples are left out of the estimate.
    Source: Ethayarajh et al., arXiv:2402.01306, section 4.1: y' belongs to another x of the batch.
    """
    members: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    if len(members) < 2:
        return [None] * len(prompts)
    order = [index for group in sorted(members.values(), key=len, reverse=True) for index in group]
    largest = max(len(group) for group in members.values())
    partners: list[int | None] = [None] * len(order)
    # Equal prompts stand side by side in `order`, so a turn by the size of the largest group leaves no group on itself.
    for position, index in enumerate(order):
        partners[index] = order[(position + largest) % len(order)]
    others = order[largest:]
    for position, index in enumerate(order[:largest]):  # only the largest group can meet itself: it is over half
        if prompts[partners[index]] == prompts[index]:  # type: ignore[index]  # set for every index just above
            partners[index] = others[position % len(others)]
    return partners


class KLSum(NamedTuple):
    """A KL estimate before division, so that ranks can be added: `total` in nats, `count` mismatched completions."""

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count, which nobody needs

    @property
    def estimated(self) -> bool:
        """False where there was no mismatched completion: the KL is then taken as 0."""
        return bool(self.count > 0)

    @property
    def value(self) -> Tensor:
        """z_0 = max(0, mean log-ratio), scalar float32, detached; 0 without an estimate."""
        return (self.total / self.count.clamp(min=1)).clamp(min=0)


def mismatched_kl(policy: Tensor, reference: Tensor) -> KLSum:
    """Sum the log-ratios of mismatched completions; their mean, not below 0, is KTO's reference point z_0.

    Args:
        policy, reference: [M] float, log pi(y'|x) of `mismatched_partners`, nats; M may be 0. No gradient is kept.
    Raises:
        ShapeError: the two differ in shape.
    Source: arXiv:2402.01306, section 4.1: z_0 = max(0, 1/m sum log pi(y'|x) / pi_ref(y'|x)), not back-propagated.
    """
    if policy.shape != reference.shape:
        raise ShapeError(f"policy {tuple(policy.shape)} and reference {tuple(reference.shape)} differ")
    return KLSum(*mean_figure(policy.float() - reference.float()))


def kto_loss(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    kl: KLSum,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    pref_ftx: float = 0.0,
    tokens: Tensor | None = None,
) -> LossSum:
    """w_D (1 - sigma(beta (r - z_0))) of a desirable, w_U (1 - sigma(beta (z_0 - r))) of an undesirable completion.

    r = log pi(y|x) - log pi_ref(y|x); z_0 = `kl.value`, the same for all and without gradient.

    Args:
        policy, reference: [S] float, log-probability of each completion summed over its tokens, nats.
        desirable: [S] bool.
        kl: from `mismatched_kl`, summed over ranks first where there are several.
        beta: `pref_beta`.  desirable_weight, undesirable_weight: `kto_chosen_weight`, `kto_rejected_weight`.
        pref_ftx: weight of the mean negative log-probability a token of each desirable completion; needs `tokens`.
        tokens: [S] int64, tokens of each completion.
    Returns:
        total over the samples, count S.  figures: rewards/ and logps/ of chosen (desirable) and rejected
        (undesirable), each over its own samples (the margin is the difference of their means), kl (count 0 where it was
        not estimated), sft_loss with pref_ftx.  ranked: the reward of each sample and whether it is desirable.
    Raises:
        ShapeError: the tensors are not all [S], or `tokens` is missing.
    Source: arXiv:2402.01306, eq. 7 (loss lambda_y - v).
    """
    if policy.dim() != 1 or reference.shape != policy.shape or desirable.shape != policy.shape:
        raise ShapeError("policy, reference and desirable must all be [S]")
    if pref_ftx and tokens is None:
        raise ShapeError("pref_ftx needs the token count of each completion")
    desirable = desirable.bool()
    ratio = policy.float() - reference.float()
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    losses = weight * torch.sigmoid(-beta * sign * (ratio - kl.value))  # 1 - sigma(x) = sigma(-x)
    rewards = beta * ratio.detach()
    figures = {
        "rewards/chosen": mean_figure(rewards, desirable),
        "rewards/rejected": mean_figure(rewards, ~desirable),
        "logps/chosen": mean_figure(policy, desirable),
        "logps/rejected": mean_figure(policy, ~desirable),
        "kl": (kl.value * kl.count.clamp(max=1), kl.count.clamp(max=1)),
    }
    if pref_ftx and tokens is not None:
        sft = -per_token(policy, tokens)
        figures["sft_loss"] = mean_figure(sft, desirable)
        losses = losses + pref_ftx * torch.where(desirable, sft, 0.0)
    return summed(losses, figures)._replace(ranked=Ranked(rewards, desirable))


@dataclass(frozen=True)
class LabelBalance:
    """How the two labels weigh against each other.

    ratio: weighted desirable over weighted undesirable samples; None where a label or its weight is missing.
    desirable_weights, undesirable_weights: (lowest, highest) value of the one weight that balances the labels while the
    other stays as it is; None without a ratio.
    """

    desirable: int
    undesirable: int
    ratio: float | None
    desirable_weights: tuple[float, float] | None
    undesirable_weights: tuple[float, float] | None

    @property
    def balanced(self) -> bool:
        """Whether the ratio lies in BALANCED, with a thousandth of slack for weights written with few digits."""
        low, high = BALANCED
        return self.ratio is not None and low - 1e-3 <= self.ratio <= high + 1e-3


def label_balance(
    desirable: int, undesirable: int, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> LabelBalance:
    """Weigh the labels of a data set and say which weights would balance them.

    Args:
        desirable, undesirable: samples with each label.
        desirable_weight, undesirable_weight: `kto_chosen_weight`, `kto_rejected_weight`.
    Source: arXiv:2402.01306, eq. 8: lambda_D n_D / (lambda_U n_U) in [1, 4/3].
    """
    pull, push = desirable * desirable_weight, undesirable * undesirable_weight
    if min(pull, push) <= 0:
        return LabelBalance(desirable, undesirable, None, None, None)
    low, high = BALANCED
    return LabelBalance(
        desirable,
        undesirable,
        pull / push,
        (low * push / desirable, high * push / desirable),
        (pull / undesirable / high, pull / undesirable / low),
    )
