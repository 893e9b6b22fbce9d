"""Where models are fetched from, as the settings say."""

from __future__ import annotations

from typing import Any

from burnish.config import Settings


def hub_arguments(settings: Settings) -> dict[str, Any]:
    """`revision`, `cache_dir` and `token` of everything that is read of the model."""
    model = settings.model
    return {"revision": model.model_revision, "cache_dir": model.cache_dir, "token": model.hf_hub_token}
