"""Optimizers: which one updates which weights, float32 copies of low-precision weights, state for checkpoints."""

from burnish.train.optimizers.build import OptimizerOptions, build_optimizer
from burnish.train.optimizers.masters import MasterOptimizer

__all__ = ["MasterOptimizer", "OptimizerOptions", "build_optimizer"]
