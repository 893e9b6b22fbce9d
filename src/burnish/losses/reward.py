"""The pairwise loss of a reward model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import LossSum
from burnish.losses.figures import mean_figure, summed


def pairwise_reward_loss(
    chosen: Tensor, rejected: Tensor, *, margins: Tensor | None = None, centring: float = 0.0
) -> LossSum:
    """Bradley-Terry loss of a chosen score over a rejected one: -log sigma(r_c - r_r - m) + centring (r_c + r_r)^2.

    Args:
        chosen, rejected: [P] float scores, one a pair; the maths runs in float32.
        margins: [P] float, how much better the chosen answer is; None: 0.
        centring: weight of the term that pulls scores towards zero; 0 switches it off.
    Returns:
        total over the pairs, count P.  figures: rewards/chosen, rewards/rejected, rewards/margins (r_c - r_r),
        rewards/accuracies (share of r_c > r_r; a tie counts as wrong).
    Raises:
        ShapeError: the three are not all [P].
    Source: Ouyang et al., arXiv:2203.02155, eq. 1; margin: Touvron et al., arXiv:2307.09288, eq. 2;
    centring: Eisenstein et al., arXiv:2312.09244, eq. 2.
    """
    if chosen.dim() != 1 or rejected.shape != chosen.shape or (margins is not None and margins.shape != chosen.shape):
        raise ShapeError(f"scores {tuple(chosen.shape)} and {tuple(rejected.shape)} (or margins) are not one a pair")
    chosen, rejected = chosen.float(), rejected.float()
    gap = chosen - rejected
    losses = -F.logsigmoid(gap if margins is None else gap - margins.float())
    if centring:
        losses = losses + centring * (chosen + rejected).square()
    return summed(
        losses,
        {
            "rewards/chosen": mean_figure(chosen),
            "rewards/rejected": mean_figure(rejected),
            "rewards/margins": mean_figure(gap),
            "rewards/accuracies": mean_figure(gap > 0),
        },
    )
