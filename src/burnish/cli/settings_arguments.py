"""Commands that take settings as key=value and as --key value leave both to the settings reader."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
