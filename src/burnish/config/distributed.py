"""Settings of runs on several devices: how processes share the work, and what is cut into shards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from burnish.config.fields import CHOICE, Config, Flag, RoomSettings, Table, Text, Whole, as_word, setting

Placement = Annotated[Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"], CHOICE, BeforeValidator(as_word)]


def _as_fsdp(value: Any) -> Any:
    """FSDP's options as words: true asks for the usual ones, false for none; a list becomes text."""
    if isinstance(value, bool):
        return "full_shard auto_wrap" if value else ""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return "full_shard auto_wrap" if value.strip().lower() == "true" else ""
    return value


Fsdp = Annotated[Text, BeforeValidator(_as_fsdp)]


class DistributedSettings(RoomSettings):
    """How several processes work on one run. A launcher starts them; see docs/distributed.md."""

    deepspeed: Config | None = setting(
        None, 'DeepSpeed configuration, a JSON file or a mapping; its "auto" values follow the other settings.'
    )
    fsdp: Fsdp = setting("", "Cut weights into shards with FSDP2: true, or words such as full_shard auto_wrap offload.")
    fsdp_config: Config | None = setting(None, "Further options of FSDP2, a JSON file or a mapping.")
    ddp_timeout: Whole = setting(1800, "Seconds after which a process that waits for the others gives up.", ge=1)
    ddp_find_unused_parameters: Flag = setting(
        False, "Look in each step for weights that took no part; needed only for models that skip layers."
    )
    ray_num_workers: Whole | None = setting(
        None, "Processes on a Ray cluster; one is started here if none is found.", ge=1
    )
    resources_per_worker: Table | None = setting(
        None,
        'What each Ray process reserves, such as {"GPU": 1}.',
        derived="one GPU where the cluster has them, else one CPU",
    )
    placement_strategy: Placement = setting("PACK", "How Ray spreads the processes over machines.")
    ray_init_kwargs: Config | None = setting(None, "Arguments of ray.init, such as the address of a cluster.")
