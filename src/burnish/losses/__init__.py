"""Losses as pure tensor maths: each returns a sum and a count, and only the training loop divides."""

from burnish.losses.cross_entropy import Figures, LossSum, Ranked, TokenLosses, token_cross_entropy

__all__ = ["Figures", "LossSum", "Ranked", "TokenLosses", "token_cross_entropy"]
