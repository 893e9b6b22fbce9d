"""Burnish from Python: `burnish.train({...})` and `burnish.load(run_dir).chat("…")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish import log


def train(
    settings: Mapping[str, Any] | str | Path,
    overrides: Sequence[str] = (),
    *,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train and return what run.json holds.

    Args:
        settings: a dict with the keys of a YAML file, or the path of one.
        overrides: `key=value` strings that win over the file.
        callbacks: functions that get every row of metrics.jsonl, or `Callback` objects, which can also stop, save and
            evaluate.
    Raises:
        BurnishError: anything the user can mend; its text says what, where and how.
    """
    from burnish.train.run import train_with

    return train_with(settings, overrides, callbacks=callbacks)


def load(name: str, **options: Any) -> Any:
    """A model to talk to: `load("runs/quickstart").chat("…")`.

    Args:
        name: a model folder, a run folder, a .gguf file, a hub name or smollm2-135m-instruct.
        options: those of `burnish.generate.chat.load_chat_model`.
    """
    from burnish.generate.chat import load_chat_model

    return load_chat_model(name, say=log.say, **options)


def load_reward_model(name: str, **options: Any) -> Any:
    """A reward model to ask: `load_reward_model("runs/rm").score([conversation, …])` gives one number each.

    Args:
        name: the folder of a run with `stage: rm`.
        options: those of `burnish.generate.reward.load_reward_model`.
    """
    from burnish.generate.reward import load_reward_model as load

    return load(name, say=log.say, **options)
