"""What is known of each optimizer before torch is loaded: which further values it takes, which of Adam's it heeds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OPTIM_ARGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sgd": ("momentum", "dampening", "nesterov"),
        "adagrad": ("lr_decay", "initial_accumulator_value", "eps"),
        "rmsprop": ("alpha", "momentum", "centered", "eps"),
        "adafactor": ("clip_threshold", "decay_rate", "beta1"),
        "muon": ("momentum", "nesterov", "ns_steps", "adjust_lr_fn"),
    }
)
"""An optimizer → the names that `optim_args` may hold for it; the others take none."""

NO_ADAM_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("sgd", "adagrad", "rmsprop", "adafactor"), ("adam_beta1", "adam_beta2", "adam_epsilon")),
        **dict.fromkeys(("lion", "lion_32bit", "lion_8bit", "paged_lion_8bit", "paged_lion_32bit"), ("adam_epsilon",)),
    }
)
"""An optimizer → the settings of Adam that it has no use for."""
