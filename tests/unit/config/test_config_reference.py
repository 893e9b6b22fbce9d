"""The catalogue of names, the generated reference and the schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.config.catalogue import ENVIRONMENT, LATER_VALUES, OLDER_NAMES, catalogue, choices_of, find
from burnish.config.reference import describe, json_schema, render_reference
from burnish.config.settings import ROOMS
from burnish.errors import BurnishError

REFERENCE = Path(__file__).parents[3] / "docs" / "settings.md"

_NAMES = """
template dataset eval_dataset dataset_dir cutoff_len train_on_prompt mask_history streaming buffer_size
mix_strategy interleave_probs overwrite_cache preprocessing_batch_size preprocessing_num_workers max_samples
ignore_pad_token_for_loss val_size eval_on_each_dataset packing neat_packing tool_format default_system
enable_thinking preserve_thinking tokenized_path media_dir eval_num_beams data_shared_file_system dev_ratio
max_source_length max_target_length model_name_or_path adapter_name_or_path cache_dir use_fast_tokenizer
resize_vocab add_tokens add_special_tokens new_special_tokens_config model_revision rope_scaling flash_attn
enable_liger_kernel disable_gradient_checkpointing train_from_scratch infer_backend infer_dtype
trust_remote_code hf_hub_token ms_hub_token print_param_status upcast_layernorm quantization_bit
quantization_method quantization_type double_quantization export_dir export_size export_device
export_legacy_format split_special_tokens low_cpu_mem_usage shift_attn mixture_of_depths use_unsloth
use_unsloth_gc moe_aux_loss_coef use_reentrant_gc use_kv_cache image_max_pixels video_fps
audio_sampling_rate export_quantization_bit vllm_maxlen sglang_maxlen use_kt stage finetuning_type pure_bf16
freeze_trainable_layers freeze_trainable_modules freeze_extra_modules lora_rank lora_alpha lora_dropout
lora_target additional_target loraplus_lr_ratio loraplus_lr_embedding use_rslora use_dora pissa_init
pissa_iter pissa_convert create_new_adapter pref_beta pref_ftx pref_loss dpo_label_smoothing
kto_chosen_weight kto_rejected_weight simpo_gamma ref_model ref_model_adapters reward_model
reward_model_adapters reward_model_type ppo_buffer_size ppo_epochs ppo_score_norm ppo_target
ppo_whiten_rewards compute_accuracy disable_shuffling early_stopping_steps plot_loss
include_effective_tokens_per_second use_adam_mini use_muon use_galore galore_rank use_apollo apollo_rank
use_badam badam_mode use_llama_pro use_mca use_dft_loss oft_rank use_swanlab swanlab_project output_dir
overwrite_output_dir do_train do_eval do_predict per_device_train_batch_size per_device_eval_batch_size
gradient_accumulation_steps learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_ratio warmup_steps optim
logging_steps logging_dir report_to run_name save_strategy save_steps save_total_limit save_only_model
eval_strategy evaluation_strategy eval_steps load_best_model_at_end metric_for_best_model greater_is_better
resume_from_checkpoint seed data_seed full_determinism bf16 fp16 tf32 use_cpu gradient_checkpointing
neftune_noise_alpha label_smoothing_factor group_by_length dataloader_num_workers ddp_timeout
ddp_find_unused_parameters deepspeed fsdp fsdp_config torch_compile predict_with_generate push_to_hub
hub_model_id do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty
length_penalty skip_special_tokens overlong on_bad_row
"""
KNOWN_NAMES = _NAMES.split()


@pytest.mark.parametrize("name", KNOWN_NAMES)
def test_every_name_users_have_is_known(name: str) -> None:
    entry = find(name)
    assert entry is not None
    if entry.status != "supported":
        assert entry.text
    assert describe(name).startswith(entry.key)


def test_environment_variables_are_known() -> None:
    for name in ENVIRONMENT:
        assert find(name) is None
        assert "environment variable" in describe(name)


def test_every_field_is_described_in_one_sentence() -> None:
    for model in ROOMS.values():
        for key, field in model.model_fields.items():
            assert field.description, key
            assert field.description.endswith("."), key
            assert len(field.description) < 160, key


def test_field_names_are_unique_over_the_rooms() -> None:
    names = [key for model in ROOMS.values() for key in model.model_fields]
    assert len(names) == len(set(names))


def test_defaults_are_values_their_fields_accept() -> None:
    for model in ROOMS.values():
        whole = model()
        assert model(**{key: value for key, value in whole if value is not None}) == whole


def test_later_values_are_not_among_the_working_ones() -> None:
    for key, value in LATER_VALUES:
        entry = find(key)
        assert entry is not None
        assert entry.field is not None
        assert value not in choices_of(entry.field)


def test_older_names_lead_to_supported_ones() -> None:
    for old, new in OLDER_NAMES.items():
        assert old not in catalogue()
        assert catalogue()[new].status == "supported"


def test_the_page_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == render_reference(), (
        "run: python -m burnish.config.reference > docs/settings.md"
    )


def test_the_page_holds_every_name_and_no_broken_row() -> None:
    page = render_reference()
    for key in catalogue():
        assert f"| `{key}` |" in page
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 5, line


def test_a_setting_in_words() -> None:
    assert describe("lora-rank") == (
        "lora_rank\n  Rank of the LoRA matrices.\n  values: a whole number, at least 1\n  default: 8\n  room: tuning"
    )
    assert describe("dev_ratio").startswith("val_size (older name: dev_ratio)\n")
    assert "not there yet: oft" in describe("finetuning_type")
    assert "not there yet: leave it out" in describe("torch_compile")
    assert "accepted, changes nothing: the size of a read" in describe("preprocessing_batch_size")


def test_a_setting_nobody_knows() -> None:
    with pytest.raises(BurnishError) as caught:
        describe("lora_rnak")
    assert caught.value.what == "unknown setting 'lora_rnak'"
    assert caught.value.fix == "did you mean 'lora_rank'?"


def test_the_schema_is_flat_closed_and_described() -> None:
    schema = json.loads(json.dumps(json_schema(), allow_nan=False))
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert set(properties) == set(catalogue()) | set(OLDER_NAMES)
    assert all(held["description"] for held in properties.values())
    assert properties["lora_rank"] == {
        "type": ["integer", "null"],
        "minimum": 1,
        "description": "Rank of the LoRA matrices.",
        "default": 8,
    }
    assert properties["eval_strategy"]["enum"] == ["no", "steps", "epoch", None]
    assert properties["lora_dropout"]["exclusiveMaximum"] == 1
    assert properties["use_galore"]["enum"] == [False, None]
    assert properties["dataset"]["anyOf"][1] == {"type": "array", "items": {"type": "string"}}
    assert "default" not in properties["lora_alpha"]
