"""Rules over several settings: problems, values that follow, and remarks."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.config import load_settings
from burnish.config.remarks import REMARKS
from burnish.config.rules import ADJUSTMENTS, RULES
from burnish.errors import SettingsError

BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "evaluation_needs_data": ({"eval_strategy": "steps"}, "eval_strategy", "there is no data to evaluate on"),
    "prediction_needs_data": ({"do_predict": True}, "do_predict", "there is no data to predict on"),
    "prediction_generates": (
        {"do_predict": True, "predict_with_generate": False, "eval_dataset": "a"},
        "predict_with_generate",
        "do_predict without predict_with_generate would only measure the loss",
    ),
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
    "lanes_divide_streams": (
        {"stream_lanes": 2},
        "stream_lanes",
        "stream_lanes divides streamed data, and streaming is off",
    ),
    "probabilities_are_positive": (
        {"interleave_probs": "0,0"},
        "interleave_probs",
        "interleave_probs must be 0 or more, and not all 0",
    ),
    "loftq_needs_quantized_weights": (
        {"lora_init": "loftq"},
        "lora_init",
        "lora_init: loftq starts from what quantizing lost, and nothing is quantized",
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
    "warmup_steps_is_share_or_count": (
        {"warmup_steps": 2.5},
        "warmup_steps",
        "warmup_steps: 2.5 is neither a share below 1 nor a whole number",
    ),
    "one_optimizer": ({"use_muon": True, "optim": "sgd"}, "use_muon", "use_muon and optim: sgd name two optimizers"),
    "optim_args_belong": (
        {"optim": "sgd", "optim_args": "momentum=0.9,alpha=0.5"},
        "optim_args",
        "the optimizer sgd takes no 'alpha' in optim_args",
    ),
    "one_way_of_sharding": (
        {"deepspeed": "ds.json", "fsdp": True},
        "deepspeed",
        "deepspeed and fsdp are two ways of cutting a model into shards",
    ),
    "fsdp_words_are_known": ({"fsdp": "full_shrad auto_wrap"}, "fsdp", "FSDP2 has no option 'full_shrad'"),
    "shards_hold_plain_weights": ({"fsdp": True, "fp16": True}, "fp16", "FSDP2 and fp16 do not go together"),
    "shards_fit_the_optimizer": (
        {"fsdp": True, "optim": "adafactor"},
        "optim",
        "optim: adafactor does not work on the shards that FSDP2 makes of weights",
    ),
    "swapped_labels_have_a_loss": (
        {"stage": "dpo", "pref_loss": "hinge", "dpo_label_smoothing": 0.1},
        "dpo_label_smoothing",
        "pref_loss: hinge knows no dpo_label_smoothing",
    ),
    "pairs_of_kto_are_sums": (
        {"stage": "dpo", "pref_loss": "kto_pair", "pref_length_normalized": True},
        "pref_length_normalized",
        "pref_loss: kto_pair has no length-normalised form",
    ),
    "reference_adapters_need_a_model": (
        {"stage": "dpo", "ref_model_adapters": "a"},
        "ref_model_adapters",
        "ref_model_adapters needs ref_model, the model that they are put on",
    ),
    "references_have_8_or_4_bits": (
        {"stage": "dpo", "ref_model": "m", "ref_model_quantization_bit": 3},
        "ref_model_quantization_bit",
        "ref_model_quantization_bit: 3 does not exist",
    ),
    "reference_can_be_precomputed": (
        {"stage": "kto", "precompute_ref": True},
        "precompute_ref",
        "precompute_ref does not fit kto, whose mismatched answers differ from batch to batch",
    ),
    "one_of_kto_weights": (
        {"stage": "kto", "kto_chosen_weight": 0, "kto_rejected_weight": 0},
        "kto_chosen_weight",
        "kto_chosen_weight and kto_rejected_weight are both 0, so nothing would be learnt",
    ),
    "judged_losses_are_their_own": (
        {"stage": "rm", "loss_function": "mine.py:loss"},
        "loss_function",
        "loss_function takes the place of sft's loss; rm has one of its own",
    ),
    "one_weight_a_reward": (
        {"reward_funcs": "exact_match,length", "reward_weights": [1]},
        "reward_weights",
        "there are 2 reward_funcs and 1 reward_weights",
    ),
    "something_judges": ({"stage": "grpo"}, "stage", "stage: grpo needs something that judges its answers"),
    "rollouts_draw_at_random": (
        {"stage": "ppo", "reward_model": "runs/rm", "do_sample": False},
        "do_sample",
        "stage: ppo learns from answers that differ, and the likeliest one is always the same",
    ),
    "delta_lies_above_the_clip": (
        {"stage": "grpo", "reward_funcs": "length", "delta": 1.2, "epsilon_high": 0.28},
        "delta",
        "delta: 1.2 is not above 1 + epsilon_high, 1.28",
    ),
    "rollouts_are_judged_by_rewards": (
        {"stage": "grpo", "reward_funcs": "length", "val_size": 0.1, "metric_for_best_model": "loss"},
        "metric_for_best_model",
        "stage: grpo has no loss on held-out prompts",
    ),
    "vllm_gets_whole_weights": (
        {"stage": "grpo", "reward_funcs": "length", "use_vllm": True, "quantization_bit": 4},
        "use_vllm",
        "use_vllm hands whole weights to vLLM, and quantization_bit holds them in fewer bits",
    ),
    "reward_adapters_need_a_model": (
        {"stage": "ppo", "reward_funcs": "length", "reward_model_adapters": "a"},
        "reward_model_adapters",
        "reward_model_adapters needs reward_model, the model that they are put on",
    ),
    "urls_are_scoring_services": (
        {"stage": "grpo", "reward_model": "http://127.0.0.1:8000/score"},
        "reward_model",
        "reward_model: http://127.0.0.1:8000/score is a URL, and reward_model_type: lora wants a run",
    ),
}
ADJUSTED: dict[str, tuple[dict[str, Any], str, Any, tuple[str, ...]]] = {
    "evaluation_alone": (
        {"do_eval": True, "val_size": 0.1},
        "do_train",
        False,
        ("do_eval without do_train only evaluates; add do_train: true to train as well",),
    ),
    "predictions_are_text": (
        {"do_predict": True, "eval_dataset": "a", "do_train": True},
        "predict_with_generate",
        True,
        (),
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
    "optimizer_by_its_switch": ({"use_adam_mini": True, "optim": "adamw_torch"}, "optim", "adam_mini", ()),
    "some_kl_weight": ({"stage": "rloo", "reward_funcs": "length"}, "beta", 0.05, ()),
    "groups_draw_from_the_whole": ({"stage": "grpo", "reward_funcs": "length"}, "top_p", 1.0, ()),
    "rewards_tell_the_best": ({"stage": "ppo", "reward_funcs": "length"}, "metric_for_best_model", "eval_reward", ()),
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
    "generating_needs_prediction": (
        {"predict_with_generate": True},
        "predict_with_generate has no effect without do_predict: true; evaluation measures the loss",
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
    "loraplus_needs_its_ratio": (
        {"loraplus_lr_embedding": 1e-5},
        "loraplus_lr_embedding has no effect without loraplus_lr_ratio",
    ),
    "adam_values_without_effect": (
        {"optim": "lion", "adam_beta2": 0.99, "adam_epsilon": 1e-6},
        "adam_epsilon: no effect with optim: lion",
    ),
    "constant_schedules_have_no_values": (
        {"lr_scheduler_type": "constant", "warmup_steps": 3, "lr_scheduler_kwargs": {"num_cycles": 2}},
        "warmup_steps, lr_scheduler_kwargs: no effect with lr_scheduler_type: constant",
    ),
    "fsdp_config_needs_fsdp": (
        {"fsdp_config": {"offload_params": True}},
        "fsdp_config has no effect without fsdp",
    ),
    "ray_options_need_workers": (
        {"placement_strategy": "SPREAD"},
        "placement_strategy: no effect without ray_num_workers",
    ),
    "unused_parameters_are_for_ddp": (
        {"ddp_find_unused_parameters": True, "fsdp": True},
        "ddp_find_unused_parameters has no effect with deepspeed or fsdp",
    ),
    "exporting_is_a_command": (
        {"export_dir": "out", "export_size": 2},
        "export_dir, export_size: only `burnish export` looks at this",
    ),
    "used_by_other_stages": (
        {"stage": "kto", "pref_loss": "ipo", "simpo_gamma": 1},
        "pref_loss, simpo_gamma: no effect with stage: kto",
    ),
    "reference_free": (
        {"stage": "dpo", "pref_loss": "simpo", "ref_model": "m"},
        "ref_model: no effect with pref_loss: simpo, which needs no reference",
    ),
    "robust_of_nothing": (
        {"stage": "dpo", "pref_loss": "robust"},
        "pref_loss: robust without dpo_label_smoothing is the same as sigmoid",
    ),
    "dropout_is_off": (
        {"stage": "dpo", "lora_dropout": 0.1},
        "lora_dropout has no effect with stage: dpo, which compares answers by the same network; "
        "disable_dropout: false uses it",
    ),
    "only_judged_answers": (
        {"stage": "rm", "train_on_prompt": True},
        "train_on_prompt: no effect with stage: rm, which learns from judged answers alone",
    ),
    "cut_distributions_bias": (
        {"stage": "grpo", "reward_funcs": "length", "top_p": 0.9},
        "top_p: answers are drawn from a part of the policy only, which biases what is learnt",
    ),
    "generation_words_of_prompts": (
        {"stage": "ppo", "reward_model": "runs/rm", "group_by_length": True},
        "group_by_length: no effect with stage: ppo, whose answers are made on the way",
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
        {"warmup_steps": 0.1, "max_steps": 10},
        {"optim": "sgd", "optim_args": {"momentum": 0.9, "nesterov": True}, "weight_decay": 0.1},
        {"use_muon": True, "optim": "muon", "optim_args": "ns_steps=3"},
        {"loraplus_lr_ratio": 16, "loraplus_lr_embedding": 1e-5},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1},
    ],
)
def test_settings_that_agree_say_nothing(given: dict[str, Any]) -> None:
    assert load_settings(given).notes == ()


def test_further_broken_rules() -> None:
    assert problems_of({"pure_bf16": True, "fp16": True})[0][0] == "pure_bf16 and fp16 are both true"
    assert problems_of({"val_size": 2.5, "do_eval": True})[0][2] == "write a share below 1, or a whole number such as 2"
    both = problems_of({"use_muon": True, "use_adam_mini": True})
    assert [problem[0] for problem in both] == ["use_muon and use_adam_mini are both true"]
    assert problems_of({"optim_args": "betas=1"})[0][2].startswith("leave it out")
    assert load_settings({"finetuning_type": "full", "loraplus_lr_ratio": 4}).notes == (
        "loraplus_lr_ratio: no effect with finetuning_type: full",
    )
    assert problems_of({"lora_target": []})[0][0] == "lora_target names no layers"
    assert problems_of({"do_eval": True})[0][1] == "settings: do_eval"
    assert problems_of({"report_to": ["wandb", "none"]})[0][0] == "report_to says none and names trackers"
    assert problems_of({"report_to": "neptune"})[0][2] == (
        "known: aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb"
    )
    assert "did you mean 'tensorboard'?" in str(problems_of({"report_to": "tensorbord"})[0][2])
    assert (
        problems_of({"stage": "dpo", "ref_model_quantization_bit": 4})[0][1] == "settings: ref_model_quantization_bit"
    )
    assert problems_of({"stage": "dpo", "precompute_ref": True, "streaming": True, "max_steps": 3})[0][0] == (
        "precompute_ref needs all data before training, and streaming has not read it then"
    )
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


def test_rewards_in_a_settings_file(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("reward_funcs: [math_equal, {name: regex_format, pattern: '#### \\d+', weight: 0.5}]\n")
    found = load_settings(file, ["stage=sft"]).rollout.reward_funcs
    assert found == ("math_equal", {"name": "regex_format", "pattern": "#### \\d+", "weight": 0.5})
    for text in ("math_equal,length", "[math_equal, length]"):
        assert load_settings({}, [f"reward_funcs={text}"]).rollout.reward_funcs == ("math_equal", "length")
    one = load_settings({}, ["reward_funcs={name: length, target: 5}"]).rollout.reward_funcs
    assert one == ({"name": "length", "target": 5},)
    for wrong in (3, [3], [{"pattern": "x"}]):
        assert "'reward_funcs' must be a list of rewards" in problems_of({"reward_funcs": wrong})[0][0]
    both = {"reward_funcs": [{"name": "length", "weight": 2}], "reward_weights": [1]}
    assert problems_of(both)[0][0] == "a reward has a weight of its own, and reward_weights are set"
    settings = load_settings({"reward_funcs": [{"name": "length", "target": 5}], "stage": "dpo"})
    assert settings.notes == ("reward_funcs: no effect with stage: dpo",)
    assert load_settings(settings.flat()).rollout == settings.rollout
