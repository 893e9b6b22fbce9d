"""Rewards: how good a sampled answer is, by functions with a time limit and a defined outcome for each failure."""

from burnish.rewards.build import build_rewards
from burnish.rewards.records import RewardSample, Scores
from burnish.rewards.run import Rewards

__all__ = ["RewardSample", "Rewards", "Scores", "build_rewards"]
