"""Rules over several settings. Each is one small function.

A *rule* yields problems, an *adjustment* yields values that follow from others, a *remark* yields sentences
for the user. To add one, write the function and put it into its table at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from burnish.config.draft import Change, Draft, Finding
from burnish.config.method_rules import (
    adapters_need_lora,
    freeze_trains_something,
    loftq_needs_quantized_weights,
    lora_target_names_layers,
    one_start_for_lora,
    orthogonal_rank_is_even,
    quantization_has_8_or_4_bits,
    quantized_bases_need_lora,
    residuals_need_whole_weights,
    scratch_trains_all,
)
from burnish.config.optimizers import OPTIM_ARGS
from burnish.config.preference_rules import PREFERENCE_RULES
from burnish.config.rollout_rules import ROLLOUT_ADJUSTMENTS, ROLLOUT_RULES
from burnish.config.training import TRACKERS
from burnish.registry import did_you_mean

# Rules: problems.


def evaluation_needs_data(draft: Draft) -> Iterator[Finding]:
    wanted = draft["eval_strategy"] != "no" or draft["do_eval"]
    if wanted and not draft["eval_dataset"] and draft["val_size"] == 0:
        what = "there is no data to evaluate on"
        fix = "set eval_dataset or val_size: 0.1, or turn evaluation off (eval_strategy: no, do_eval: false)"
        yield Finding(("eval_strategy", "do_eval", "eval_dataset", "val_size"), what, fix)


def prediction_needs_data(draft: Draft) -> Iterator[Finding]:
    if draft["do_predict"] and not draft["eval_dataset"] and draft["val_size"] == 0:
        what, fix = "there is no data to predict on", "set eval_dataset, or val_size: 0.1 to hold out a part of dataset"
        yield Finding(("do_predict", "eval_dataset", "val_size"), what, fix)


def prediction_generates(draft: Draft) -> Iterator[Finding]:
    answers = draft["stage"] != "rm"  # a reward model scores
    if (
        answers
        and draft["do_predict"]
        and "predict_with_generate" in draft.given
        and not draft["predict_with_generate"]
    ):
        what = "do_predict without predict_with_generate would only measure the loss"
        fix = "leave predict_with_generate out, or measure the loss: do_eval: true, or burnish data loss"
        yield Finding(("predict_with_generate", "do_predict"), what, fix)


def best_needs_evaluation(draft: Draft) -> Iterator[Finding]:
    if draft["eval_strategy"] != "no":
        return
    for key, asked in (
        ("load_best_model_at_end", draft["load_best_model_at_end"]),
        ("early_stopping_steps", draft["early_stopping_steps"] is not None),
        ("save_strategy", draft["save_strategy"] == "best"),
    ):
        if asked:
            what = f"{key} needs evaluations on the way, and there are none"
            yield Finding((key, "eval_strategy"), what, "set eval_strategy: steps and eval_steps, or leave it out")


def one_loss(draft: Draft) -> Iterator[Finding]:
    if draft["loss_function"] and draft["label_smoothing_factor"]:
        what = "label_smoothing_factor has no place in a loss of your own"
        yield Finding(("label_smoothing_factor", "loss_function"), what, "keep one of them")


def one_source_of_evaluation_data(draft: Draft) -> Iterator[Finding]:
    if draft["eval_dataset"] and draft["val_size"] > 0:
        fix = "keep one: eval_dataset for data of its own, val_size for a part of the training data"
        yield Finding(("val_size", "eval_dataset"), "val_size and eval_dataset are both set", fix)


def val_size_is_share_or_count(draft: Draft) -> Iterator[Finding]:
    size = draft["val_size"]
    if size == 1:
        fix = "write 0.1 for a tenth, or a count above 1"
        yield Finding(("val_size",), "val_size: 1 is neither a share below 1 nor a count above 1", fix)
    elif size > 1 and not float(size).is_integer():
        fix = f"write a share below 1, or a whole number such as {int(size)}"
        yield Finding(("val_size",), "val_size above 1 counts samples and must be a whole number", fix)


def one_number_format(draft: Draft) -> Iterator[Finding]:
    for other in ("bf16", "pure_bf16"):
        if draft[other] and draft["fp16"]:
            yield Finding((other, "fp16"), f"{other} and fp16 are both true", "keep one; bf16 where the device has it")


def prompt_or_history(draft: Draft) -> Iterator[Finding]:
    if draft["train_on_prompt"] and draft["mask_history"]:
        what = "train_on_prompt and mask_history contradict each other"
        fix = "keep one: train_on_prompt trains on everything, mask_history on the last answer only"
        yield Finding(("train_on_prompt", "mask_history"), what, fix)


def packing_agrees(draft: Draft) -> Iterator[Finding]:
    if draft["neat_packing"] and not draft["packing"]:
        what = "neat_packing: true contradicts packing: false"
        yield Finding(("packing", "neat_packing"), what, "leave packing out, or set neat_packing: false")


def checkpointing_agrees(draft: Draft) -> Iterator[Finding]:
    if draft["disable_gradient_checkpointing"] and draft["gradient_checkpointing"]:
        what = "gradient_checkpointing and disable_gradient_checkpointing are both true"
        yield Finding(("gradient_checkpointing", "disable_gradient_checkpointing"), what, "keep one of them")


def zero_temperature_is_greedy(draft: Draft) -> Iterator[Finding]:
    if draft["temperature"] == 0 and "do_sample" in draft.given and draft["do_sample"]:
        fix = "set a temperature above 0, or do_sample: false for the likeliest token"
        yield Finding(("temperature", "do_sample"), "do_sample: true needs a temperature above 0", fix)


def schedule_has_its_values(draft: Draft) -> Iterator[Finding]:
    needs = {
        "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
        "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
        "warmup_stable_decay": ("num_decay_steps",),
    }
    kind = draft["lr_scheduler_type"]
    wanted = needs.get(kind)
    if wanted and not any(name in (draft["lr_scheduler_kwargs"] or {}) for name in wanted):
        what = f"the schedule {kind} needs {' or '.join(wanted)}"
        fix = f'add lr_scheduler_kwargs: {{"{wanted[0]}": VALUE}}'
        yield Finding(("lr_scheduler_type", "lr_scheduler_kwargs"), what, fix)


def streams_have_a_length(draft: Draft) -> Iterator[Finding]:
    if draft["streaming"] and draft["max_steps"] <= 0 and draft["do_train"]:
        what = "streaming needs max_steps: how long the data is shows only at its end"
        yield Finding(("streaming", "max_steps"), what, "set max_steps, or leave streaming out")


def streams_hold_out_a_count(draft: Draft) -> Iterator[Finding]:
    if draft["streaming"] and 0 < draft["val_size"] < 1:
        what = "streaming holds out a number of samples, not a share"
        yield Finding(("val_size", "streaming"), what, "set val_size to a count, such as 500, or name an eval_dataset")


def streams_save_by_steps(draft: Draft) -> Iterator[Finding]:
    for what in ("eval", "save", "logging"):
        if draft["streaming"] and draft[f"{what}_strategy"] == "epoch":
            text = f"{what}_strategy: epoch does not fit streaming, which knows no length of an epoch"
            yield Finding((f"{what}_strategy", "streaming"), text, f"use {what}_strategy: steps")


def streams_are_not_kept(draft: Draft) -> Iterator[Finding]:
    if draft["streaming"] and draft["tokenized_path"]:
        what = "tokenized_path keeps a prepared set, streaming prepares while it trains"
        yield Finding(("tokenized_path", "streaming"), what, "keep one of them")


def lanes_divide_streams(draft: Draft) -> Iterator[Finding]:
    if draft["stream_lanes"] is not None and not draft["streaming"]:
        what = "stream_lanes divides streamed data, and streaming is off"
        yield Finding(("stream_lanes", "streaming"), what, "leave stream_lanes out, or set streaming: true")


def probabilities_are_positive(draft: Draft) -> Iterator[Finding]:
    probs = draft["interleave_probs"]
    if probs and (min(probs) < 0 or sum(probs) <= 0):
        yield Finding(("interleave_probs",), "interleave_probs must be 0 or more, and not all 0", "write 0.7,0.3")


def trackers_are_known(draft: Draft) -> Iterator[Finding]:
    names = draft["report_to"]
    unknown = [name for name in names if name not in (*TRACKERS, "none", "all")]
    if unknown:
        what = f"Burnish knows no tracker '{unknown[0]}'"
        yield Finding(("report_to",), what, did_you_mean(unknown[0], TRACKERS))
    elif "none" in names and len(names) > 1:
        yield Finding(("report_to",), "report_to says none and names trackers", "write none alone, or leave it out")


def warmup_steps_is_share_or_count(draft: Draft) -> Iterator[Finding]:
    steps = draft["warmup_steps"]
    if steps >= 1 and steps != int(steps):
        what = f"warmup_steps: {steps:g} is neither a share below 1 nor a whole number"
        yield Finding(("warmup_steps",), what, f"write a share below 1, or a whole number such as {int(steps)}")


def one_optimizer(draft: Draft) -> Iterator[Finding]:
    switches = [key for key in ("use_muon", "use_adam_mini") if draft[key]]
    named = {"use_muon": "muon", "use_adam_mini": "adam_mini"}
    plain = ("adamw_torch", "adamw_torch_fused")  # files that say use_muon often name these as well
    if len(switches) > 1:
        yield Finding(tuple(switches), "use_muon and use_adam_mini are both true", "keep one of them")
    elif switches and draft["optim"] not in (*plain, named[switches[0]]):
        what = f"{switches[0]} and optim: {draft['optim']} name two optimizers"
        yield Finding((switches[0], "optim"), what, "keep one of them")


def optim_args_belong(draft: Draft) -> Iterator[Finding]:
    name = _optimizer(draft)
    known = OPTIM_ARGS.get(name, ())
    for arg in draft["optim_args"] or {}:
        if arg not in known:
            fix = f"it takes {', '.join(known)}" if known else "leave it out; adam_beta1 and the like are settings"
            yield Finding(("optim_args", "optim"), f"the optimizer {name} takes no '{arg}' in optim_args", fix)


def _optimizer(draft: Draft) -> str:
    """The optimizer by its name, or by the switch that names it."""
    switched = "muon" if draft["use_muon"] else "adam_mini" if draft["use_adam_mini"] else None
    return switched or str(draft["optim"])


_FSDP_STRATEGIES = ("full_shard", "shard_grad_op", "hybrid_shard", "hybrid_shard_zero2")


def one_way_of_sharding(draft: Draft) -> Iterator[Finding]:
    if draft["deepspeed"] is not None and draft["fsdp"]:
        what = "deepspeed and fsdp are two ways of cutting a model into shards"
        yield Finding(("deepspeed", "fsdp"), what, "keep one of them")


def fsdp_words_are_known(draft: Draft) -> Iterator[Finding]:
    words = draft["fsdp"].replace(",", " ").split()
    strategies = [word for word in words if word in _FSDP_STRATEGIES]
    known = f"write {', '.join(_FSDP_STRATEGIES)}, and auto_wrap or offload behind it"
    for word in words:
        if word == "no_shard":
            yield Finding(("fsdp",), "no_shard is plain DDP", "leave fsdp out")
        elif word not in (*_FSDP_STRATEGIES, "auto_wrap", "offload"):
            yield Finding(("fsdp",), f"FSDP2 has no option '{word}'", known)
    if len(strategies) > 1:
        yield Finding(("fsdp",), f"{strategies[0]} and {strategies[1]} are two strategies", "keep one of them")


def shards_hold_plain_weights(draft: Draft) -> Iterator[Finding]:
    if not draft["fsdp"]:
        return
    if draft.values.get("quantization_bit"):
        fix = "leave fsdp out: a quantized model is copied to each device, or train the 16-bit model"
        what = "quantized weights cannot be cut into shards by FSDP2"
        yield Finding(("quantization_bit", "fsdp"), what, fix)
    if draft["fp16"]:
        what = "FSDP2 and fp16 do not go together"
        yield Finding(("fp16", "fsdp"), what, "use bf16, or DeepSpeed for fp16")


_PART_BY_PART = ("adamw_torch", "adamw_torch_fused", "lion", "lion_32bit", "sgd", "adagrad", "rmsprop")


def shards_fit_the_optimizer(draft: Draft) -> Iterator[Finding]:
    """A shard is a part of a weight; DeepSpeed's are flat pieces of many weights, whose state only AdamW's is known."""
    name = _optimizer(draft)
    if draft["deepspeed"] is not None and not name.startswith("adamw_torch"):
        what = f"optim: {name} cannot update the flat shards that DeepSpeed makes of weights"
        fix = "use optim: adamw_torch with deepspeed, or FSDP2 (fsdp: true)"
        yield Finding(("optim", "use_muon", "use_adam_mini", "deepspeed"), what, fix)
    if draft["fsdp"] and name not in _PART_BY_PART:
        what = f"optim: {name} does not work on the shards that FSDP2 makes of weights"
        yield Finding(("optim", "use_muon", "use_adam_mini", "fsdp"), what, f"use one of {', '.join(_PART_BY_PART)}")


# Adjustments: values that follow from others.


def evaluation_alone(draft: Draft) -> Iterator[Change]:
    asked = {"do_eval": "evaluates", "do_predict": "predicts"}
    found = [key for key in asked if key in draft.given and draft[key]]
    if found and "do_train" not in draft.given:
        does = " and ".join(asked[key] for key in found)
        note = f"{' and '.join(found)} without do_train only {does}; add do_train: true to train as well"
        yield Change("do_train", False, note)


def predictions_are_text(draft: Draft) -> Iterator[Change]:
    if draft["do_predict"] and not draft["predict_with_generate"]:
        yield Change("predict_with_generate", True, "")


def metric_has_its_prefix(draft: Draft) -> Iterator[Change]:
    metric = draft["metric_for_best_model"]
    if not metric.startswith("eval_"):
        yield Change("metric_for_best_model", f"eval_{metric}", "")


def greedy_at_zero(draft: Draft) -> Iterator[Change]:
    if draft["temperature"] == 0 and "do_sample" not in draft.given:
        yield Change("do_sample", False, "")


def checkpointing_off(draft: Draft) -> Iterator[Change]:
    if draft["disable_gradient_checkpointing"] and draft["gradient_checkpointing"] is None:
        yield Change("gradient_checkpointing", False, "")


def resuming_keeps_the_folder(draft: Draft) -> Iterator[Change]:
    if draft["resume_from_checkpoint"] and draft["overwrite_output_dir"]:
        note = "the output folder is kept: resume_from_checkpoint needs what overwrite_output_dir would remove"
        yield Change("overwrite_output_dir", False, note)


def new_tokens_win(draft: Draft) -> Iterator[Change]:
    if draft.chosen("max_new_tokens") and draft["max_length"] is not None:
        yield Change("max_length", None, "max_length has no effect: max_new_tokens is set and wins")


def pretraining_packs(draft: Draft) -> Iterator[Change]:
    if draft["stage"] == "pt" and "packing" not in draft.given:
        yield Change("packing", True, "")


def older_lengths_add_up(draft: Draft) -> Iterator[Change]:
    parts = [draft[f"max_{part}_length"] for part in ("source", "target")]
    if all(parts) and "cutoff_len" not in draft.given:
        note = f"cutoff_len is {sum(parts)}: max_source_length and max_target_length together"
        yield Change("cutoff_len", sum(parts), note)


def swanlab_reports(draft: Draft) -> Iterator[Change]:
    names = tuple(name for name in draft["report_to"] if name != "none")
    if draft["use_swanlab"] and not {"swanlab", "all"} & set(names):
        yield Change("report_to", (*names, "swanlab"), "")


def optimizer_by_its_switch(draft: Draft) -> Iterator[Change]:
    if _optimizer(draft) != draft["optim"]:
        yield Change("optim", _optimizer(draft), "")


RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    evaluation_needs_data,
    prediction_needs_data,
    prediction_generates,
    best_needs_evaluation,
    one_loss,
    one_source_of_evaluation_data,
    val_size_is_share_or_count,
    one_number_format,
    prompt_or_history,
    adapters_need_lora,
    packing_agrees,
    lora_target_names_layers,
    checkpointing_agrees,
    zero_temperature_is_greedy,
    schedule_has_its_values,
    streams_have_a_length,
    streams_hold_out_a_count,
    streams_save_by_steps,
    streams_are_not_kept,
    lanes_divide_streams,
    probabilities_are_positive,
    loftq_needs_quantized_weights,
    one_start_for_lora,
    orthogonal_rank_is_even,
    freeze_trains_something,
    scratch_trains_all,
    trackers_are_known,
    quantization_has_8_or_4_bits,
    quantized_bases_need_lora,
    residuals_need_whole_weights,
    warmup_steps_is_share_or_count,
    one_optimizer,
    optim_args_belong,
    one_way_of_sharding,
    fsdp_words_are_known,
    shards_hold_plain_weights,
    shards_fit_the_optimizer,
    *PREFERENCE_RULES,
    *ROLLOUT_RULES,
)
ADJUSTMENTS: tuple[Callable[[Draft], Iterator[Change]], ...] = (
    evaluation_alone,
    predictions_are_text,
    metric_has_its_prefix,
    greedy_at_zero,
    checkpointing_off,
    resuming_keeps_the_folder,
    new_tokens_win,
    pretraining_packs,
    older_lengths_add_up,
    swanlab_reports,
    optimizer_by_its_switch,
    *ROLLOUT_ADJUSTMENTS,
)
