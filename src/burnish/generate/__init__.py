"""One sampler for chat, predict, evaluation and rollouts."""

from burnish.generate.request import Completion, Event, Request, Sampling
from burnish.generate.sampler import generate

__all__ = ["Completion", "Event", "Request", "Sampling", "generate"]
