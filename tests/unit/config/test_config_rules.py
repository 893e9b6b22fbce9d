"""Rules over several settings: problems, values that follow, and remarks."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.config import load_settings
from burnish.config.rules import ADJUSTMENTS, REMARKS, RULES
from burnish.errors import SettingsError

BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "evaluation_needs_data": ({"eval_strategy": "steps"}, "eval_strategy", "there is no data to evaluate on"),
    "best_needs_evaluation": (
        {"load_best_model_at_end": True},
        "load_best_model_at_end",
        "load_best_model_at_end needs evaluations on the way, and there are none",
    ),
    "one_loss": (
        {"loss_function": "mine.py:loss", "label_smoothing_factor": 0.1},
        "label_smoothing_factor",
        "label_smoothing_factor has no place in a loss of your own",
    ),
    "one_source_of_evaluation_data": (
        {"val_size": 0.1, "eval_dataset": "a", "do_eval": True},
        "val_size",
        "val_size and eval_dataset are both set",
    ),
    "val_size_is_share_or_count": (
        {"val_size": 1, "do_eval": True},
        "val_size",
        "val_size: 1 is neither a share below 1 nor a count above 1",
    ),
    "one_number_format": ({"bf16": True, "fp16": True}, "bf16", "bf16 and fp16 are both true"),
    "prompt_or_history": (
        {"train_on_prompt": True, "mask_history": True},
        "train_on_prompt",
        "train_on_prompt and mask_history contradict each other",
    ),
    "adapters_need_lora": (
        {"adapter_name_or_path": "a", "finetuning_type": "full"},
        "finetuning_type",
        "an adapter cannot be used with finetuning_type: full",
    ),
    "packing_agrees": (
        {"packing": False, "neat_packing": True},
        "packing",
        "neat_packing: true contradicts packing: false",
    ),
    "lora_target_names_layers": (
        {"lora_target": ["all", "q_proj"]},
        "lora_target",
        "lora_target names all layers and single ones",
    ),
    "checkpointing_agrees": (
        {"gradient_checkpointing": True, "disable_gradient_checkpointing": True},
        "gradient_checkpointing",
        "gradient_checkpointing and disable_gradient_checkpointing are both true",
    ),
    "zero_temperature_is_greedy": (
        {"temperature": 0, "do_sample": True},
        "temperature",
        "do_sample: true needs a temperature above 0",
    ),
    "schedule_has_its_values": (
        {"lr_scheduler_type": "warmup_stable_decay"},
        "lr_scheduler_type",
        "the schedule warmup_stable_decay needs num_decay_steps",
    ),
    "streams_have_a_length": (
        {"streaming": True},
        "streaming",
        "streaming needs max_steps: how long the data is shows only at its end",
    ),
    "streams_hold_out_a_count": (
        {"streaming": True, "max_steps": 5, "val_size": 0.1, "do_eval": True},
        "val_size",
        "streaming holds out a number of samples, not a share",
    ),
    "streams_save_by_steps": (
        {"streaming": True, "max_steps": 5, "save_strategy": "epoch"},
        "save_strategy",
        "save_strategy: epoch does not fit streaming, which knows no length of an epoch",
    ),
    "streams_are_not_kept": (
        {"streaming": True, "max_steps": 5, "tokenized_path": "x"},
        "tokenized_path",
        "tokenized_path keeps a prepared set, streaming prepares while it trains",
    ),
    "probabilities_are_positive": (
        {"interleave_probs": "0,0"},
        "interleave_probs",
        "interleave_probs must be 0 or more, and not all 0",
    ),
    "one_start_for_lora": (
        {"pissa_init": True, "lora_init": "olora"},
        "lora_init",
        "pissa_init: true contradicts lora_init: olora",
    ),
    "orthogonal_rank_is_even": (
        {"lora_init": "orthogonal", "lora_rank": 7},
        "lora_rank",
        "lora_init: orthogonal needs an even rank, not 7",
    ),
    "freeze_trains_something": (
        {"finetuning_type": "freeze", "freeze_trainable_layers": 0},
        "freeze_trainable_layers",
        "finetuning_type: freeze would train nothing",
    ),
    "scratch_trains_all": (
        {"train_from_scratch": True},
        "train_from_scratch",
        "train_from_scratch trains all weights, finetuning_type: lora does not",
    ),
    "trackers_are_known": (
        {"report_to": "tensorbord,wandb"},
        "report_to",
        "Burnish knows no tracker 'tensorbord'",
    ),
    "quantization_has_8_or_4_bits": (
        {"quantization_bit": 3},
        "quantization_bit",
        "quantization_bit: 3 does not exist",
    ),
    "quantized_bases_need_lora": (
        {"quantization_bit": 4, "finetuning_type": "full"},
        "quantization_bit",
        "quantized weights cannot be trained, as finetuning_type: full would",
    ),
    "residuals_need_whole_weights": (
        {"quantization_bit": 4, "pissa_init": True},
        "pissa_init",
        "lora_init: pissa takes its start out of the weights, which quantized ones do not allow",
    ),
}
ADJUSTED: dict[str, tuple[dict[str, Any], str, Any, tuple[str, ...]]] = {
    "evaluation_alone": (
        {"do_eval": True, "val_size": 0.1},
        "do_train",
        False,
        ("do_eval without do_train only evaluates; add do_train: true to train as well",),
    ),
    "metric_has_its_prefix": ({"metric_for_best_model": "loss"}, "metric_for_best_model", "eval_loss", ()),
    "greedy_at_zero": ({"temperature": 0}, "do_sample", False, ()),
    "checkpointing_off": ({"disable_gradient_checkpointing": True}, "gradient_checkpointing", False, ()),
    "resuming_keeps_the_folder": (
        {"resume_from_checkpoint": True, "overwrite_output_dir": True},
        "overwrite_output_dir",
        False,
        ("the output folder is kept: resume_from_checkpoint needs what overwrite_output_dir would remove",),
    ),
    "new_tokens_win": (
        {"max_length": 512, "max_new_tokens": 64},
        "max_length",
        None,
        ("max_length has no effect: max_new_tokens is set and wins",),
    ),
    "pretraining_packs": ({"stage": "pt"}, "packing", True, ()),
    "older_lengths_add_up": (
        {"max_source_length": 512, "max_target_length": 256},
        "cutoff_len",
        768,
        ("cutoff_len is 768: max_source_length and max_target_length together",),
    ),
    "swanlab_reports": ({"use_swanlab": True, "report_to": "mlflow"}, "report_to", ["mlflow", "swanlab"], ()),
}
REMARKED: dict[str, tuple[dict[str, Any], str]] = {
    "lora_without_effect": (
        {"finetuning_type": "full", "lora_rank": 16, "use_dora": True},
        "lora_rank, use_dora: no effect with finetuning_type: full",
    ),
    "adapter_keeps_its_shape": (
        {"adapter_name_or_path": "runs/a", "lora_rank": 32, "lora_init": "olora"},
        "lora_rank, lora_init: no effect, the adapter that is trained on keeps its own",
    ),
    "freeze_without_effect": (
        {"freeze_trainable_layers": 3, "freeze_extra_modules": "norm"},
        "freeze_trainable_layers, freeze_extra_modules: no effect with finetuning_type: lora",
    ),
    "pissa_rounds_need_pissa": ({"pissa_iter": -1}, "pissa_iter has no effect without lora_init: pissa"),
    "steps_before_epochs": (
        {"max_steps": 10, "num_train_epochs": 2},
        "num_train_epochs has no effect: max_steps is set and wins",
    ),
    "lengths_matter_only_padded": (
        {"group_by_length": True, "neat_packing": True},
        "group_by_length has no effect with packing",
    ),
    "warmup_steps_before_ratio": (
        {"warmup_steps": 10, "warmup_ratio": 0.1},
        "warmup_ratio has no effect: warmup_steps is set and wins",
    ),
    "warmup_ends_in_time": (
        {"warmup_steps": 10, "max_steps": 10},
        "the learning rate never reaches its height: warmup_steps is not below max_steps",
    ),
    "steps_need_their_strategy": (
        {"save_strategy": "epoch", "save_steps": 7},
        "save_steps has no effect with save_strategy: epoch",
    ),
    "held_out_but_unused": (
        {"val_size": 0.1},
        "evaluation data is set, so the loss on it is measured once, at the end; "
        "set eval_strategy: steps to see it on the way",
    ),
    "packing_is_always_neat": (
        {"packing": True},
        "packed samples never see each other in Burnish, with neat_packing or without",
    ),
    "pretraining_has_no_turns": (
        {"stage": "pt", "mask_history": True, "tool_format": "qwen"},
        "mask_history, tool_format: no effect with stage: pt, whose documents have no turns",
    ),
    "no_thoughts_to_preserve": (
        {"preserve_thinking": True, "enable_thinking": False},
        "preserve_thinking has no effect: enable_thinking: false leaves all thoughts out",
    ),
    "new_adapter_needs_old": (
        {"create_new_adapter": True},
        "create_new_adapter has no effect without adapter_name_or_path",
    ),
    "no_tracker_writes": (
        {"logging_dir": "logs"},
        "logging_dir has no effect: report_to names no tracker; metrics and log are in output_dir",
    ),
    "only_four_bits_have_a_type": (
        {"quantization_bit": 8, "quantization_type": "fp4", "double_quantization": False},
        "quantization_type, double_quantization: no effect without quantization_bit: 4",
    ),
}


def problems_of(given: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    with pytest.raises(SettingsError) as caught:
        load_settings(given)
    return [(problem.what, problem.at, problem.fix) for problem in caught.value.problems]


def test_every_rule_is_tried_here() -> None:
    assert [rule.__name__ for rule in RULES] == list(BROKEN)
    assert [adjustment.__name__ for adjustment in ADJUSTMENTS] == list(ADJUSTED)
    assert [remark.__name__ for remark in REMARKS] == list(REMARKED)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_one_problem(rule: str) -> None:
    given, key, what = BROKEN[rule]
    [problem] = problems_of(given)
    assert problem[:2] == (what, f"settings: {key}")
    assert problem[2]


@pytest.mark.parametrize("adjustment", ADJUSTED)
def test_values_that_follow(adjustment: str) -> None:
    given, key, value, notes = ADJUSTED[adjustment]
    settings = load_settings(given)
    assert settings.flat()[key] == value
    assert settings.notes == notes


@pytest.mark.parametrize("remark", REMARKED)
def test_remarks(remark: str) -> None:
    given, note = REMARKED[remark]
    assert load_settings(given).notes == (note,)


@pytest.mark.parametrize(
    "given",
    [
        {"eval_strategy": "steps", "val_size": 0.1},
        {"do_eval": True, "do_train": True, "eval_dataset": "a"},
        {"val_size": 20, "eval_strategy": "epoch"},
        {"bf16": True, "pure_bf16": True},
        {"packing": True, "neat_packing": True},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        {"finetuning_type": "full", "lora_rank": 8},
        {"do_sample": False, "temperature": 0},
        {"max_steps": 10, "num_train_epochs": 3.0},
        {"stage": "pt", "packing": False},
        {"max_source_length": 512, "max_target_length": 512, "cutoff_len": 2048},
    ],
)
def test_settings_that_agree_say_nothing(given: dict[str, Any]) -> None:
    assert load_settings(given).notes == ()


def test_further_broken_rules() -> None:
    assert problems_of({"pure_bf16": True, "fp16": True})[0][0] == "pure_bf16 and fp16 are both true"
    assert problems_of({"val_size": 2.5, "do_eval": True})[0][2] == "write a share below 1, or a whole number such as 2"
    assert problems_of({"lora_target": []})[0][0] == "lora_target names no layers"
    assert problems_of({"do_eval": True})[0][1] == "settings: do_eval"
    assert problems_of({"report_to": ["wandb", "none"]})[0][0] == "report_to says none and names trackers"
    assert problems_of({"report_to": "neptune"})[0][2] == (
        "known: aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb"
    )
    assert "did you mean 'tensorboard'?" in str(problems_of({"report_to": "tensorbord"})[0][2])
    assert problems_of({"lr_scheduler_type": "cosine_with_min_lr"})[0][2] == (
        'add lr_scheduler_kwargs: {"min_lr": VALUE}'
    )


def test_freeze_names_all_or_single_parts() -> None:
    given = {"finetuning_type": "freeze", "freeze_trainable_modules": "all,mlp"}
    assert problems_of(given)[0][0] == "freeze_trainable_modules names all parts and single ones"
    extra_only = {"finetuning_type": "freeze", "freeze_trainable_layers": 0, "freeze_extra_modules": "norm"}
    assert load_settings(extra_only).notes == ()


def test_pissa_init_is_another_name() -> None:
    assert load_settings({"pissa_init": True}).tuning.lora_init == "pissa"
    assert load_settings({"pissa_init": True, "lora_init": "pissa"}).tuning.lora_init == "pissa"
    assert load_settings({}).tuning.lora_init == "default"


def test_several_broken_rules_are_reported_together() -> None:
    found = problems_of({"bf16": True, "fp16": True, "eval_strategy": "steps", "lora_target": []})
    assert len(found) == 3


def test_a_rule_is_silent_about_values_that_are_wrong_themselves() -> None:
    found = problems_of({"eval_strategy": "steps", "val_size": "much"})
    assert [problem[0] for problem in found] == ["'val_size' must be a number, not 'much'"]


def test_derived_defaults_follow() -> None:
    settings = load_settings({"lora_rank": 4, "seed": 3, "logging_steps": 5, "neat_packing": True})
    assert settings.tuning.lora_alpha == 8
    assert settings.training.data_seed == 3
    assert settings.training.eval_steps == 5
    assert settings.data.packing is True
    assert load_settings({"eval_strategy": "epoch", "val_size": 0.1}).training.do_eval is True
    assert load_settings({"eval_strategy": "epoch", "val_size": 0.1}).training.do_train is True
