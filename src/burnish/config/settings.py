"""All settings of one run, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from burnish.config.data import DataSettings
from burnish.config.distributed import DistributedSettings
from burnish.config.fields import RoomSettings
from burnish.config.generating import GeneratingSettings
from burnish.config.model import ModelSettings
from burnish.config.preference import PreferenceSettings
from burnish.config.rollout import RolloutSettings
from burnish.config.training import TrainingSettings
from burnish.config.tuning import TuningSettings

ROOMS: Mapping[str, type[RoomSettings]] = MappingProxyType(
    {
        "model": ModelSettings,
        "data": DataSettings,
        "tuning": TuningSettings,
        "preference": PreferenceSettings,
        "rollout": RolloutSettings,
        "training": TrainingSettings,
        "distributed": DistributedSettings,
        "generating": GeneratingSettings,
    }
)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run with its final value, by room.

    Attributes:
        model, data, tuning, preference, rollout, training, distributed, generating: the rooms, frozen.
        origins: where each given one stands: `"run.yaml:12"`, `"command line"` or `"settings"` (a mapping).
        source_path: the settings file; None when a mapping was given.
        given: the names that the user set to something other than null.
        notes: sentences the user should read: values that have no effect, defaults that follow from others.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    preference: PreferenceSettings = field(default_factory=PreferenceSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    distributed: DistributedSettings = field(default_factory=DistributedSettings)
    generating: GeneratingSettings = field(default_factory=GeneratingSettings)
    origins: Mapping[str, str] = field(default_factory=dict)
    source_path: Path | None = None
    given: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def flat(self) -> dict[str, Any]:
        """All values under their flat names, ready for JSON; secrets are null.

        `load_settings(settings.flat())` gives the same values again.
        """
        values: dict[str, Any] = {}
        for room, model in ROOMS.items():
            held = getattr(self, room)
            for key, spec in model.model_fields.items():
                value = getattr(held, key)
                extra = spec.json_schema_extra
                if isinstance(extra, dict) and extra.get("secret"):
                    value = None
                if isinstance(value, tuple):
                    value = list(value)
                values[key] = dict(value) if isinstance(value, dict) else value
        return values
