"""Burnish fine-tunes language models: data to labels, an exact training loop, and a plain account of the run."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_reward_model", "predict", "train"]


def train(settings: dict[str, Any], **overrides: Any) -> Any:
    """Train from a dict of settings (the keys of a YAML file); returns the run's summary, as in run.json."""
    from burnish.api import train as run

    return run(settings, **overrides)


def predict(settings: dict[str, Any], **options: Any) -> Any:
    """Answer a dataset and compare with its answers; see `burnish.api.predict`."""
    from burnish.api import predict as answer

    return answer(settings, **options)


def load(path: str, **options: Any) -> Any:
    """Load a model or a run folder for chatting and generating; see `burnish.api.load`."""
    from burnish.api import load as open_model

    return open_model(path, **options)


def load_reward_model(path: str, **options: Any) -> Any:
    """Load a run of `stage: rm` for scoring answers; see `burnish.api.load_reward_model`."""
    from burnish.api import load_reward_model as open_model

    return open_model(path, **options)
