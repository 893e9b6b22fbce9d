"""Which engine a run asks for: the settings, and what `accelerate launch` puts into the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from burnish.config import Settings
from burnish.errors import BurnishError
from burnish.registry import nearest


@dataclass(frozen=True)
class FsdpOptions:
    """How FSDP2 cuts a model up.

    Attributes:
        reshard: free the gathered weights of a layer after its forward pass and gather them again for the backward
            pass (as ZeRO 3); else they stay (as ZeRO 2).
        hybrid: cut within a machine, copy between machines.
        offload: shards live in the memory of the CPU.
        layers: class names of the layers that are gathered one at a time; empty: what the model says.
        min_params: instead, modules with at least this many parameters are.
    """

    reshard: bool = True
    hybrid: bool = False
    offload: bool = False
    layers: tuple[str, ...] = ()
    min_params: int = 0


@dataclass(frozen=True)
class Plan:
    """What was asked for. `notes` are for the user."""

    kind: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    fsdp: FsdpOptions = field(default_factory=FsdpOptions)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose_engine(settings: Settings, environ: MutableMapping[str, str] = os.environ) -> Plan:
    """Read the settings and, where they say nothing, accelerate's environment variables.

    accelerate's variables are taken out of `environ` as they are read: other libraries would act on them too.

    Raises:
        BurnishError: an option is unknown, or a file cannot be read.
    """
    asked = _from_accelerate(environ)
    distributed = settings.distributed
    if distributed.deepspeed is not None:
        return Plan("deepspeed", deepspeed=read_config(distributed.deepspeed, "deepspeed"))
    if distributed.fsdp:
        options = read_config(distributed.fsdp_config, "fsdp_config") if distributed.fsdp_config is not None else {}
        return _fsdp(distributed.fsdp.replace(",", " ").split(), options, settings)
    if asked.kind == "fsdp":
        _refuse_with_fsdp(settings, "ACCELERATE_USE_FSDP")
    return asked


def read_config(source: str | Mapping[str, Any], key: str) -> dict[str, Any]:
    """A mapping as it is, or the JSON object in a file. Raises BurnishError where there is none."""
    if not isinstance(source, str):
        return json.loads(json.dumps(source))
    path = Path(source).expanduser()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        where = f"{key}: {source}"
        raise BurnishError(f"this file cannot be read as JSON: {error}", at=where, fix="check the path") from error
    if not isinstance(read, dict):
        raise BurnishError("this file holds no JSON object", at=f"{key}: {source}", fix="see examples/deepspeed")
    return read


# -- FSDP ---------------------------------------------------------------------------------------------------------

_STRATEGIES: dict[str, dict[str, Any]] = {
    "full_shard": {"reshard": True},
    "shard_grad_op": {"reshard": False},
    "hybrid_shard": {"reshard": True, "hybrid": True},
    "hybrid_shard_zero2": {"reshard": False, "hybrid": True},
}
# Options that FSDP2 does by itself, or that concern the first FSDP's way of storing weights; any value is fine.
_WITHOUT_EFFECT = {
    *("backward_prefetch", "forward_prefetch", "limit_all_gathers", "use_orig_params", "sync_module_states"),
    *("state_dict_type", "auto_wrap_policy", "cpu_ram_efficient_loading", "version"),
}
_OPTIONS = {
    *_WITHOUT_EFFECT,
    *("transformer_layer_cls_to_wrap", "min_num_params", "reshard_after_forward", "offload_params"),
    *("sharding_strategy", "activation_checkpointing"),
}


def _fsdp(words: list[str], options: Mapping[str, Any], settings: Settings) -> Plan:
    found = FsdpOptions()
    for word in words:
        if word in _STRATEGIES:
            found = replace(found, **_STRATEGIES[word])
        elif word == "offload":
            found = replace(found, offload=True)
    return Plan("fsdp", fsdp=_with_options(found, options, "fsdp_config", settings))


def _with_options(found: FsdpOptions, options: Mapping[str, Any], at: str, settings: Settings) -> FsdpOptions:
    for written, value in options.items():
        key = written.removeprefix("fsdp_").lower()
        if key not in _OPTIONS:
            close = nearest(key, _OPTIONS)
            fix = f"did you mean '{close[0]}'?" if close else f"FSDP2 takes: {', '.join(sorted(_OPTIONS))}"
            raise BurnishError(f"unknown option '{written}'", at=f"{at}: {written}", fix=fix)
        if key == "version" and int(value) == 1:
            raise BurnishError(
                "Burnish uses FSDP2 only", at=f"{at}: {written}", fix="write 2 or leave it out; the options are alike"
            )
        if key == "transformer_layer_cls_to_wrap" and value:
            names = value.split(",") if isinstance(value, str) else value
            found = replace(found, layers=tuple(name.strip() for name in names))
        elif key == "min_num_params" and int(value):
            found = replace(found, min_params=int(value))
        elif key == "offload_params":
            found = replace(found, offload=_truth(value))
        elif key in ("sharding_strategy", "reshard_after_forward") and not isinstance(value, bool):
            word = str(value).lower()
            if word in ("true", "false"):
                found = replace(found, reshard=word == "true")
            elif word in _STRATEGIES:
                found = replace(found, **_STRATEGIES[word])
            else:
                fix = f"it takes: {', '.join(_STRATEGIES)}; without shards, leave fsdp out"
                raise BurnishError(f"FSDP2 has no strategy '{value}'", at=f"{at}: {written}", fix=fix)
        elif key == "reshard_after_forward":
            found = replace(found, reshard=value)
        elif key == "activation_checkpointing" and _truth(value) and not settings.training.gradient_checkpointing:
            fix = "set gradient_checkpointing: true instead, which does the same with every engine"
            raise BurnishError("activation_checkpointing is a setting of its own", at=f"{at}: {written}", fix=fix)
    return found


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("1", "true", "yes")


def _refuse_with_fsdp(settings: Settings, at: str) -> None:
    if settings.training.fp16:
        fix = "use bf16, or DeepSpeed for fp16"
        raise BurnishError("FSDP2 and fp16 do not go together", at=at, fix=fix)


# -- accelerate's environment -------------------------------------------------------------------------------------


def _from_accelerate(environ: MutableMapping[str, str]) -> Plan:
    """What `accelerate launch` and its configuration file ask for."""
    for name, what in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "tensor or context parallelism")):
        if environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            fix = "use multi_gpu, FSDP or DeepSpeed in accelerate's configuration"
            raise BurnishError(f"Burnish does not use accelerate's {what}", at="accelerate launch", fix=fix)
    # Burnish divides by tokens itself; accelerate would divide by this as well.
    environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    uses_fsdp = environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    uses_deepspeed = environ.pop("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if uses_fsdp:
        environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # transformers would leave weights out on other ranks
        options = {
            name.removeprefix("FSDP_").lower(): value
            for name, value in environ.items()
            if name.startswith("FSDP_") and value and name.removeprefix("FSDP_").lower() in _OPTIONS
        }
        options.pop("version", None)  # accelerate's own default is 1 in old files; there is only FSDP2 here
        if options.get("sharding_strategy", "").isdigit():
            names = [*list(_STRATEGIES)[:2], "no_shard", *list(_STRATEGIES)[2:]]
            options["sharding_strategy"] = names[int(options["sharding_strategy"]) - 1]
        return Plan("fsdp", fsdp=_with_options(FsdpOptions(), options, "accelerate's fsdp_config", Settings()))
    if uses_deepspeed:
        return Plan("deepspeed", deepspeed=_deepspeed_from_accelerate(environ))
    return Plan()


def _deepspeed_from_accelerate(environ: Mapping[str, str]) -> dict[str, Any]:
    file = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file.lower() != "none":
        return read_config(file, "accelerate's deepspeed_config_file")
    zero: dict[str, Any] = {"stage": int(environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))}
    for part in ("optimizer", "param"):
        device = environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part.upper()}_DEVICE", "none")
        if device.lower() not in ("", "none"):
            zero[f"offload_{part}"] = {"device": device}
    return {"zero_optimization": zero}
