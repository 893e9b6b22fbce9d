"""One sampler for chat, predict, evaluation and rollouts."""

from burnish.generate.sampler import Completion, Sampling, generate

__all__ = ["Completion", "Sampling", "generate"]
