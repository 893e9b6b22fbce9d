"""Losses over pairs of a chosen and a rejected completion: DPO and its relatives, ORPO and SimPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.errors import ShapeError
from burnish.losses.cross_entropy import LossSum
from burnish.losses.figures import mean_figure, summed
from burnish.losses.logprobs import per_token

PREFERENCE_LOSSES = ("sigmoid", "hinge", "ipo", "robust", "orpo", "simpo", "kto_pair")
REFERENCE_FREE = frozenset({"orpo", "simpo"})
"""Losses that need no reference policy."""
PER_TOKEN = frozenset({"ipo", "orpo", "simpo"})
"""Losses that are defined on mean log-probabilities a token, whatever `length_normalised` says."""
SMOOTHED = frozenset({"sigmoid", "robust"})
"""Losses that read `label_smoothing`."""


@dataclass(frozen=True)
class Pairs:
    """P preference pairs as log-probabilities, all tensors [P].

    chosen, rejected: float, the policy's log pi(y|x) summed over the completion's tokens, nats.
    chosen_tokens, rejected_tokens: int64, tokens of each completion.
    ref_chosen, ref_rejected: float, the same under the reference policy; None for losses in REFERENCE_FREE.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {tuple(value.shape) for value in vars(self).values() if value is not None}
        if len(shapes) != 1 or self.chosen.dim() != 1:
            raise ShapeError(f"the tensors of a batch of pairs must all be [P], not {sorted(shapes)}")


def dpo_sigmoid(margin: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO; with `label_smoothing` e > 0 conservative DPO: -(1 - e) log sigma(beta m) - e log sigma(-beta m).

    margin: [P] float32, m = log-ratio of the chosen minus that of the rejected completion, nats. Returns [P].
    m = 0, as at the first step, gives ln 2.
    Source: Rafailov et al., arXiv:2305.18290, eq. 7; cDPO: Mitchell, "A note on DPO with noisy preferences" (2023).
    """
    losses = -F.logsigmoid(beta * margin)
    if not label_smoothing:
        return losses
    return (1 - label_smoothing) * losses - label_smoothing * F.logsigmoid(-beta * margin)


def dpo_hinge(margin: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta m), [P]. Source: SLiC-HF, Zhao et al., arXiv:2305.10425, eq. 1, on the margin of DPO."""
    return torch.relu(1 - beta * margin)


def ipo(margin: Tensor, *, beta: float) -> Tensor:
    """(m - 1 / (2 beta))^2, [P], with m the difference of *mean* log-ratios a token.

    Source: Azar et al., arXiv:2310.12036, eq. 17 (beta is their tau); the mean over tokens is how its authors ran it.
    """
    return (margin - 1 / (2 * beta)).square()


def dpo_robust(margin: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """Unbiased under labels flipped with probability e: (-(1-e) log sigma(beta m) + e log sigma(-beta m)) / (1 - 2e).

    [P]; may be negative. Source: Chowdhury et al., arXiv:2403.00409, their rDPO loss (section 3).
    """
    kept, flipped = -F.logsigmoid(beta * margin), -F.logsigmoid(-beta * margin)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def log_one_minus_exp(values: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without cancellation; x >= -1e-7 (a certain event) is read as -1e-7: finite, gradient 0.

    Source: Maechler, "Accurately computing log(1 - exp(-|a|))", eq. 7: expm1 above -ln 2, log1p below.
    """
    values = values.clamp(max=-1e-7)
    near = values > -0.6931471805599453
    # The branch not taken is fed a harmless number, or its infinite gradient would turn 0 x inf into NaN.
    by_expm1 = (-torch.expm1(torch.where(near, values, -0.5))).log()
    return torch.where(near, by_expm1, torch.log1p(-torch.where(near, -1.0, values).exp()))


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log sigma(log odds(chosen) - log odds(rejected)), [P], odds = p / (1 - p).

    chosen, rejected: [P] float32, mean log-probability a token. Source: ORPO, Hong et al., arXiv:2403.07691, eq. 7.
    """
    log_odds = (chosen - log_one_minus_exp(chosen)) - (rejected - log_one_minus_exp(rejected))
    return -F.logsigmoid(log_odds)


def simpo(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float) -> Tensor:
    """-log sigma(beta (c - r) - gamma), [P], c and r mean log-probabilities a token.

    The same as -log sigma(beta (c - r - gamma / beta)), LLaMA-Factory's and TRL's way to write it; SimPO's own code is
    set by the quotient, `gamma_beta_ratio` = gamma / beta.
    Source: Meng et al., arXiv:2405.14734, eq. 6.
    """
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def kto_pair(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """KTO on pairs: half of 1 - sigma(beta (c - z_r)) plus 1 - sigma(beta (z_c - r)), [P].

    c, r: [P] float32, log-ratios policy / reference; z_c, z_r: their means over the batch, not below 0: the KL of one
    half is measured on the other. No gradient flows through z, as the paper demands (TRL's removed `kto_pair` let it).
    Source: Ethayarajh et al., arXiv:2402.01306, eq. 7; the halves measure each other as in its first version.
    """
    z_chosen, z_rejected = (ratio.detach().mean().clamp(min=0) for ratio in (chosen, rejected))
    return (torch.sigmoid(-beta * (chosen - z_rejected)) + torch.sigmoid(-beta * (z_chosen - rejected))) / 2


def preference_loss(
    pairs: Pairs,
    pref_loss: str = "sigmoid",
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.5,
    pref_ftx: float = 0.0,
    length_normalised: bool = False,
) -> LossSum:
    """The loss named `pref_loss` over a batch of pairs, plus `pref_ftx` times the SFT loss of the chosen completions.

    Args:
        pairs: log-probabilities, any float dtype; the maths runs in float32.
        pref_loss: one of PREFERENCE_LOSSES.
        beta: `pref_beta`, > 0; for orpo the weight of the odds-ratio term (lambda in the paper).
        label_smoothing: 0 <= e < 0.5, the chance that a pair's labels are swapped; sigmoid and robust only.
        simpo_gamma: SimPO's target margin, in units of beta x nats a token.
        pref_ftx: weight of the mean negative log-probability a token of each chosen completion.
        length_normalised: compare mean log-ratios a token (sigmoid, hinge, robust; PER_TOKEN losses do so anyway).
    Returns:
        total over the pairs, count P.  figures: rewards/chosen and /rejected (beta x what the loss compares: the
        log-ratio, its mean a token, or the mean log-probability), rewards/margins, rewards/accuracies (a tie counts as
        wrong), logps/chosen and /rejected (summed over tokens), sft_loss where it is part of the loss.
    Raises:
        ShapeError: pairs without reference for a loss that needs it.
        ValueError: an unknown name, or an option that this loss cannot honour.
    """
    _check_options(pref_loss, label_smoothing, length_normalised)
    by_token = length_normalised or pref_loss in PER_TOKEN
    chosen = _compared(pairs.chosen, pairs.ref_chosen, pairs.chosen_tokens, pref_loss, by_token)
    rejected = _compared(pairs.rejected, pairs.ref_rejected, pairs.rejected_tokens, pref_loss, by_token)
    sft = -per_token(pairs.chosen, pairs.chosen_tokens)
    figures = {
        "rewards/chosen": mean_figure(beta * chosen),
        "rewards/rejected": mean_figure(beta * rejected),
        "rewards/margins": mean_figure(beta * (chosen - rejected)),
        "rewards/accuracies": mean_figure(chosen > rejected),
        "logps/chosen": mean_figure(pairs.chosen),
        "logps/rejected": mean_figure(pairs.rejected),
    }
    options = {"beta": beta, "label_smoothing": label_smoothing, "gamma": simpo_gamma}
    losses = _pair_losses(pref_loss, chosen, rejected, **options)
    if pref_loss == "orpo":
        figures["odds_ratio_loss"] = mean_figure(losses / beta)
    sft_weight = pref_ftx + (pref_loss == "orpo")  # ORPO is the SFT loss plus beta times the odds ratio
    if sft_weight:
        figures["sft_loss"] = mean_figure(sft)
        losses = losses + sft_weight * sft
    return summed(losses, figures)


def _pair_losses(
    pref_loss: str, chosen: Tensor, rejected: Tensor, *, beta: float, label_smoothing: float, gamma: float
) -> Tensor:
    margin = chosen - rejected
    if pref_loss == "sigmoid":
        return dpo_sigmoid(margin, beta=beta, label_smoothing=label_smoothing)
    if pref_loss == "hinge":
        return dpo_hinge(margin, beta=beta)
    if pref_loss == "ipo":
        return ipo(margin, beta=beta)
    if pref_loss == "robust":
        return dpo_robust(margin, beta=beta, label_smoothing=label_smoothing)
    if pref_loss == "simpo":
        return simpo(chosen, rejected, beta=beta, gamma=gamma)
    if pref_loss == "kto_pair":
        return kto_pair(chosen, rejected, beta=beta)
    return beta * odds_ratio(chosen, rejected)


def _compared(policy: Tensor, reference: Tensor | None, tokens: Tensor, pref_loss: str, by_token: bool) -> Tensor:
    """What the loss compares, [P] float32: log-ratio or log-probability, summed or a token."""
    value = policy.float()
    if pref_loss not in REFERENCE_FREE:
        if reference is None:
            raise ShapeError(f"pref_loss {pref_loss} needs log-probabilities under the reference policy")
        value = value - reference.float()
    return per_token(value, tokens) if by_token else value


def _check_options(pref_loss: str, label_smoothing: float, length_normalised: bool) -> None:
    if pref_loss not in PREFERENCE_LOSSES:
        raise ValueError(f"pref_loss {pref_loss!r} is not one of {', '.join(PREFERENCE_LOSSES)}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label smoothing must lie in [0, 0.5), not {label_smoothing}")
    if label_smoothing and pref_loss not in SMOOTHED:
        raise ValueError(f"pref_loss {pref_loss} has no label smoothing")
    if length_normalised and pref_loss == "kto_pair":
        raise ValueError("pref_loss kto_pair has no length-normalised form")
