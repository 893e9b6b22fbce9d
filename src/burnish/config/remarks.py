"""Sentences about given values that have no effect, or one that people may not expect. See `rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from burnish.config.draft import Draft
from burnish.config.method_rules import freeze_without_effect, pissa_rounds_need_pissa
from burnish.config.optimizers import NO_ADAM_VALUES
from burnish.config.preference_rules import PREFERENCE_REMARKS
from burnish.config.rollout_rules import ROLLOUT_REMARKS

_LORA_ONLY = (
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target",
    "additional_target",
    "lora_init",
    "pissa_init",
    "pissa_iter",
    "use_rslora",
    "use_dora",
    "loraplus_lr_ratio",
    "loraplus_lr_embedding",
    "create_new_adapter",
)


def lora_without_effect(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(_LORA_ONLY)
    if draft["finetuning_type"] != "lora" and idle:
        yield f"{', '.join(idle)}: no effect with finetuning_type: {draft['finetuning_type']}"


def adapter_keeps_its_shape(draft: Draft) -> Iterator[str]:
    goes_on = draft["adapter_name_or_path"] and not draft["create_new_adapter"]
    idle = draft.chosen_of(_LORA_ONLY)
    if draft["finetuning_type"] == "lora" and goes_on and idle:
        yield f"{', '.join(idle)}: no effect, the adapter that is trained on keeps its own"


def steps_before_epochs(draft: Draft) -> Iterator[str]:
    if draft["max_steps"] > 0 and draft.chosen("num_train_epochs"):
        yield "num_train_epochs has no effect: max_steps is set and wins"


def lengths_matter_only_padded(draft: Draft) -> Iterator[str]:
    if draft["group_by_length"] and (draft["packing"] or draft["streaming"]):
        idle = "packing" if draft["packing"] else "streaming"
        yield f"group_by_length has no effect with {idle}"


def warmup_steps_before_ratio(draft: Draft) -> Iterator[str]:
    if draft["warmup_steps"] > 0 and draft["warmup_ratio"] > 0:
        yield "warmup_ratio has no effect: warmup_steps is set and wins"


def warmup_ends_in_time(draft: Draft) -> Iterator[str]:
    if 0 < draft["max_steps"] <= draft["warmup_steps"]:
        yield "the learning rate never reaches its height: warmup_steps is not below max_steps"


def steps_need_their_strategy(draft: Draft) -> Iterator[str]:
    for what in ("eval", "save", "logging"):
        strategy = draft[f"{what}_strategy"]
        if strategy != "steps" and draft.chosen(f"{what}_steps"):
            yield f"{what}_steps has no effect with {what}_strategy: {strategy}"


EVALUATION_UNUSED = (
    "evaluation data is set, so the loss on it is measured once, at the end; "
    "set eval_strategy: steps to see it on the way",
    "evaluation data is set but never used: do_eval is false",
)
"""Remarks of a training about held-out data, which a command that uses it does not repeat."""


def held_out_but_unused(draft: Draft) -> Iterator[str]:
    holds = (draft["eval_dataset"] or draft["val_size"] > 0) and not draft["do_predict"]
    if holds and draft["eval_strategy"] == "no" and not draft["do_eval"]:
        yield EVALUATION_UNUSED["do_eval" in draft.given]


def generating_needs_prediction(draft: Draft) -> Iterator[str]:
    if draft["predict_with_generate"] and not draft["do_predict"]:
        yield "predict_with_generate has no effect without do_predict: true; evaluation measures the loss"


def packing_is_always_neat(draft: Draft) -> Iterator[str]:
    if draft["stage"] == "pt":
        return
    if draft["packing"] and "packing" in draft.given and not draft["neat_packing"]:
        yield "packed samples never see each other in Burnish, with neat_packing or without"


_TURNS_ONLY = (
    "train_on_prompt",
    "mask_history",
    "split_turns",
    "enable_thinking",
    "preserve_thinking",
    "tool_format",
    "default_system",
    "max_source_length",
    "max_target_length",
)


def pretraining_has_no_turns(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(_TURNS_ONLY)
    if draft["stage"] == "pt" and idle:
        yield f"{', '.join(idle)}: no effect with stage: pt, whose documents have no turns"


def fsdp_config_needs_fsdp(draft: Draft) -> Iterator[str]:
    if draft["fsdp_config"] is not None and not draft["fsdp"]:
        yield "fsdp_config has no effect without fsdp"


def ray_options_need_workers(draft: Draft) -> Iterator[str]:
    names = ("resources_per_worker", "placement_strategy", "ray_init_kwargs")
    idle = draft.chosen_of(names)
    if idle and draft["ray_num_workers"] is None:
        yield f"{', '.join(idle)}: no effect without ray_num_workers"


def unused_parameters_are_for_ddp(draft: Draft) -> Iterator[str]:
    if draft["ddp_find_unused_parameters"] and (draft["deepspeed"] is not None or draft["fsdp"]):
        yield "ddp_find_unused_parameters has no effect with deepspeed or fsdp"


def no_thoughts_to_preserve(draft: Draft) -> Iterator[str]:
    if draft["preserve_thinking"] and draft["enable_thinking"] is False:
        yield "preserve_thinking has no effect: enable_thinking: false leaves all thoughts out"


def new_adapter_needs_old(draft: Draft) -> Iterator[str]:
    if draft["create_new_adapter"] and not draft["adapter_name_or_path"] and draft["finetuning_type"] == "lora":
        yield "create_new_adapter has no effect without adapter_name_or_path"


def no_tracker_writes(draft: Draft) -> Iterator[str]:
    if draft["logging_dir"] and draft["report_to"] == ("none",):
        yield "logging_dir has no effect: report_to names no tracker; metrics and log are in output_dir"


def only_four_bits_have_a_type(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(("quantization_type", "double_quantization"))
    if idle and draft["quantization_bit"] != 4:
        yield f"{', '.join(idle)}: no effect without quantization_bit: 4"


def loraplus_needs_its_ratio(draft: Draft) -> Iterator[str]:
    lora = draft["finetuning_type"] == "lora"
    if lora and draft.chosen("loraplus_lr_embedding") and draft["loraplus_lr_ratio"] is None:
        yield "loraplus_lr_embedding has no effect without loraplus_lr_ratio"


def adam_values_without_effect(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(NO_ADAM_VALUES.get(draft["optim"], ()))
    if idle:
        yield f"{', '.join(idle)}: no effect with optim: {draft['optim']}"


def constant_schedules_have_no_values(draft: Draft) -> Iterator[str]:
    idle = {
        "constant": ("warmup_ratio", "warmup_steps", "lr_scheduler_kwargs"),
        "constant_with_warmup": ("lr_scheduler_kwargs",),
    }.get(draft["lr_scheduler_type"], ())
    given = draft.chosen_of(idle)
    if given:
        yield f"{', '.join(given)}: no effect with lr_scheduler_type: {draft['lr_scheduler_type']}"


def exporting_is_a_command(draft: Draft) -> Iterator[str]:
    names = draft.chosen_of(("export_dir", "export_size", "export_device", "export_hub_model_id"))
    if names:
        yield f"{', '.join(names)}: only `burnish export` looks at this"


REMARKS: tuple[Callable[[Draft], Iterator[str]], ...] = (
    lora_without_effect,
    adapter_keeps_its_shape,
    freeze_without_effect,
    pissa_rounds_need_pissa,
    steps_before_epochs,
    lengths_matter_only_padded,
    warmup_steps_before_ratio,
    warmup_ends_in_time,
    steps_need_their_strategy,
    held_out_but_unused,
    generating_needs_prediction,
    packing_is_always_neat,
    pretraining_has_no_turns,
    no_thoughts_to_preserve,
    new_adapter_needs_old,
    no_tracker_writes,
    only_four_bits_have_a_type,
    loraplus_needs_its_ratio,
    adam_values_without_effect,
    constant_schedules_have_no_values,
    fsdp_config_needs_fsdp,
    ray_options_need_workers,
    unused_parameters_are_for_ddp,
    exporting_is_a_command,
    *PREFERENCE_REMARKS,
    *ROLLOUT_REMARKS,
)
