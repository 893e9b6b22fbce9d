"""Every name a settings file may carry, and what Burnish does with it.

A name is one of: *supported* (a field of a room's model), *accepted* (not acting on it changes nothing of
the result), *later* (Burnish will have it; an error for now) or *never* (an error that says what to use
instead). To turn a *later* name into a supported one, delete its row in `later.py` and declare the field in
its room; to turn on a *later* value, delete it from `LATER_VALUES` and add it to the field's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from burnish.config.fields import ANY, TEXT, Kind
from burnish.config.later import ACCEPTED, FAMILIES, LATER, NEVER, Row
from burnish.config.settings import ROOMS

Status = Literal["supported", "accepted", "later", "never"]

OLDER_NAMES: Mapping[str, str] = MappingProxyType({"dev_ratio": "val_size", "evaluation_strategy": "eval_strategy"})
"""Names from older files → the name they have now."""

OTHER_TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "lr": "learning_rate",
        "batch_size": "per_device_train_batch_size",
        "train_batch_size": "per_device_train_batch_size",
        "micro_batch_size": "per_device_train_batch_size",
        "eval_batch_size": "per_device_eval_batch_size",
        "grad_accum": "gradient_accumulation_steps",
        "epochs": "num_train_epochs",
        "num_epochs": "num_train_epochs",
        "steps": "max_steps",
        "warmup": "warmup_ratio",
        "lr_scheduler": "lr_scheduler_type",
        "scheduler": "lr_scheduler_type",
        "optimizer": "optim",
        "model": "model_name_or_path",
        "base_model": "model_name_or_path",
        "adapter": "adapter_name_or_path",
        "lora_adapter": "adapter_name_or_path",
        "datasets": "dataset",
        "data": "dataset",
        "output": "output_dir",
        "chat_template": "template",
        "system": "default_system",
        "system_prompt": "default_system",
        "max_seq_length": "cutoff_len",
        "max_seq_len": "cutoff_len",
        "sequence_len": "cutoff_len",
        "model_max_length": "cutoff_len",
        "val_set_size": "val_size",
        "test_size": "val_size",
        "lora_r": "lora_rank",
        "r": "lora_rank",
        "lora_target_modules": "lora_target",
        "target_modules": "lora_target",
        "modules_to_save": "additional_target",
        "attn_implementation": "flash_attn",
        "torch_dtype": "infer_dtype",
        "no_cuda": "use_cpu",
        "random_seed": "seed",
        "max_tokens": "max_new_tokens",
        "max_completion_length": "max_new_tokens",
        "max_prompt_length": "cutoff_len",
        "kl_coef": "beta",
        "init_kl_coef": "beta",
        "steps_per_generation": "generation_batch_size",
        "dynamic_sampling": "dynamic_sample",
    }
)
"""Names from other tools → ours; only suggested, never accepted."""

LATER_VALUES: Mapping[tuple[str, Any], str] = MappingProxyType(
    {
        **{("lora_init", start): "use lora_init: pissa or default" for start in ("eva", "corda", "lora_ga")},
        ("finetuning_type", "oft"): "use finetuning_type: lora",
        **{
            ("quantization_method", method): "use quantization_method: bnb"
            for method in ("hqq", "eetq", "gptq", "awq", "aqlm", "quanto", "mxfp4", "fp8")
        },
        ("vllm_mode", "server"): "use vllm_mode: colocate",
        ("infer_backend", "vllm"): "use infer_backend: huggingface",
        ("infer_backend", "sglang"): "use infer_backend: huggingface",
        ("infer_backend", "ktransformers"): "use infer_backend: huggingface",
        ("flash_attn", "fa3"): "use flash_attn: auto",
        ("ignore_pad_token_for_loss", False): "leave it out: padding never counts in Burnish's loss",
        **{("optim", name): "use optim: adamw_8bit" for name in ("adamw_torch_8bit", "adamw_torch_4bit")},
        ("optim", "adamw_apex_fused"): "use optim: adamw_torch_fused",
        ("lr_scheduler_type", "reduce_lr_on_plateau"): "use lr_scheduler_type: cosine",
        ("lr_scheduler_type", "greedy"): "use lr_scheduler_type: cosine",
    }
)
"""Values that other tools know for a supported setting and Burnish does not have → what to use."""

ENVIRONMENT = (
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "USE_MODELSCOPE_HUB",
    "FORCE_TORCHRUN",
    "NNODES",
    "NODE_RANK",
    "NPROC_PER_NODE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "API_HOST",
    "API_PORT",
    "API_KEY",
    "API_MODEL_NAME",
)
"""Environment variables that people mistake for settings."""


@dataclass(frozen=True)
class Entry:
    """One known name.

    Attributes:
        neutral: for unsupported names, the values that ask for nothing and are fine (null always is).
        text: accepted: why it changes nothing; later and never: what to use instead.
        field: the pydantic field of a supported name.
        wanted: the kind of value, for messages and the schema.
    """

    key: str
    room: str
    status: Status
    wanted: Kind
    neutral: tuple[Any, ...] = ()
    text: str = ""
    field: FieldInfo | None = None

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        if ("token" in self.key and self.wanted is TEXT) or self.key.endswith(("api_key", "secret", "url")):
            return True
        extra = self.field.json_schema_extra if self.field else None
        return isinstance(extra, dict) and bool(extra.get("secret"))

    def is_neutral(self, value: Any) -> bool:
        """Whether an unsupported name with this value asks for nothing; empty text always does."""
        if value == "":
            return True
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        return any(value == calm and isinstance(value, bool) == isinstance(calm, bool) for calm in self.neutral)


def kind_of(field: FieldInfo) -> Kind:
    """The kind of value that a field of a room's model holds."""
    for mark in field.metadata:
        if isinstance(mark, Kind):
            return mark
    for part in get_args(field.annotation):
        for mark in getattr(part, "__metadata__", ()):
            if isinstance(mark, Kind):
                return mark
    raise TypeError(f"a setting without a kind: {field!r}")


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The allowed words of a choice; empty for every other kind."""
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal and all(isinstance(word, str) for word in get_args(annotation)):
        return get_args(annotation)
    return ()


def _from_row(status: Status, row: Row) -> Entry:
    return Entry(row.key, row.room, status, row.wanted, row.neutral, row.text)


@cache
def catalogue() -> Mapping[str, Entry]:
    """Every known name with its entry, supported ones first, in the order of the reference.

    Raises:
        ValueError: a name stands twice (a defect of ours).
    """
    entries = [
        Entry(key, room, "supported", kind_of(field), field=field)
        for room, model in ROOMS.items()
        for key, field in model.model_fields.items()
    ]
    tables: tuple[tuple[Status, tuple[Row, ...]], ...] = (
        ("accepted", ACCEPTED),
        ("later", LATER),
        ("never", NEVER),
    )
    for status, rows in tables:
        entries += [_from_row(status, row) for row in rows]
    table: dict[str, Entry] = {}
    for entry in entries:
        if entry.key in table:
            raise ValueError(f"the setting '{entry.key}' stands twice in the catalogue")
        table[entry.key] = entry
    return MappingProxyType(table)


def find(key: str) -> Entry | None:
    """The entry of a name, by its present or older name; None for an unknown one.

    Names that only share a family's beginning, such as `vllm_anything`, get an entry made from the family.
    """
    key = OLDER_NAMES.get(key, key)
    entry = catalogue().get(key)
    if entry is None:
        family = next((family for family in FAMILIES if key.startswith(family)), None)
        if family is not None:
            row = FAMILIES[family]
            entry = Entry(key, row.room, "never", ANY, (), row.text)
    return entry


def is_secret(key: str) -> bool:
    """Whether the value of a setting must never leave the machine."""
    entry = find(key)
    return entry is not None and entry.secret
