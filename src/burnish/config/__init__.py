"""Settings: flat YAML or JSON files and command-line values become frozen, checked models (no torch here)."""

from burnish.config.data import DataSettings
from burnish.config.distributed import DistributedSettings
from burnish.config.generating import GeneratingSettings
from burnish.config.loading import load_settings
from burnish.config.model import ModelSettings
from burnish.config.preference import PreferenceSettings
from burnish.config.settings import Settings
from burnish.config.training import TrainingSettings
from burnish.config.tuning import TuningSettings

__all__ = [
    "DataSettings",
    "DistributedSettings",
    "GeneratingSettings",
    "ModelSettings",
    "PreferenceSettings",
    "Settings",
    "TrainingSettings",
    "TuningSettings",
    "load_settings",
]
