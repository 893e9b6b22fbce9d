"""Where models are fetched from, as the settings say."""

from __future__ import annotations

from typing import Any

from burnish import log
from burnish.config import Settings
from burnish.model.source import ModelSource, find_model, with_adapters


def model_source(settings: Settings) -> ModelSource:
    """The model that the settings name, with the adapters that they put on it.

    Raises:
        ModelError: it is not there, or one of them is not.
    """
    base = find_model(str(settings.model.model_name_or_path), log.say)
    return with_adapters(base, settings.model.adapter_name_or_path)


def hub_arguments(settings: Settings) -> dict[str, Any]:
    """`revision`, `cache_dir` and `token` of everything that is read of the model."""
    model = settings.model
    return {"revision": model.model_revision, "cache_dir": model.cache_dir, "token": model.hf_hub_token}
