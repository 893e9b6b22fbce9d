"""Known names that are not fields: accepted ones, ones that are not there yet, ones that will not come.

`neutral` lists the values with which a name asks for nothing: its default in the tools it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from burnish.config.fields import ANY, FLAG, NUMBER, PATH, TEXT, WHOLE, Kind


@dataclass(frozen=True)
class Row:
    """A known name without a field; see `catalogue.Entry` for the meaning of each part."""

    key: str
    room: str
    neutral: tuple[Any, ...]
    text: str
    wanted: Kind = ANY


def _rows(room: str, text: str, **names: Any) -> tuple[Row, ...]:
    """Rows that share a text.

    A name's value is its neutral value, a tuple of several, or the kind it holds: then only null is neutral.
    """
    rows = []
    for key, value in names.items():
        if isinstance(value, Kind):
            rows.append(Row(key, room, (), text, value))
        else:
            neutral = value if isinstance(value, tuple) else (value,)
            rows.append(Row(key, room, neutral, text, _kind_of_value(neutral[0])))
    return tuple(rows)


def _kind_of_value(value: Any) -> Kind:
    kinds: tuple[tuple[type, Kind], ...] = ((bool, FLAG), (int, WHOLE), (float, NUMBER), (str, TEXT))
    return next((kind for kind_type, kind in kinds if isinstance(value, kind_type)), ANY)


_OUT = "leave it out"

ACCEPTED: tuple[Row, ...] = (
    *_rows("model", "transformers has only this one kind of tokenizer now", use_fast_tokenizer=True),
    *_rows("model", "models are always loaded this way", low_cpu_mem_usage=True),
    *_rows("model", "both ways of checkpointing give the same gradients", use_reentrant_gc=True),
    *_rows("data", "the first process of each machine prepares the data", data_shared_file_system=False),
    *_rows("data", "the size of a read never changes the samples", preprocessing_batch_size=1000),
    *_rows("tuning", "adapters are always saved as plain LoRA over the original base", pissa_convert=FLAG),
    *_rows("training", "batches are made in the training process", dataloader_num_workers=0),
    *_rows("training", "batches are made in the training process", dataloader_prefetch_factor=WHOLE),
    *_rows("training", "batches are made in the training process", dataloader_persistent_workers=False),
    *_rows("training", "it never changes what is computed", dataloader_pin_memory=True, disable_tqdm=FLAG),
    *_rows("distributed", "everything goes to output_dir", ray_run_name=TEXT, ray_storage_path=PATH),
    *_rows("training", "only the columns that are needed are read", remove_unused_columns=True),
)

LATER: tuple[Row, ...] = (
    *_rows("training", _OUT, torch_compile=False),
    *_rows("distributed", "mount the storage and name a folder on it", ray_storage_filesystem=TEXT),
    *_rows("training", "upload the output folder yourself", push_to_hub=False, hub_model_id=TEXT),
    *_rows("training", _OUT, gradient_checkpointing_kwargs=ANY),
    *_rows("training", _OUT, torch_compile_backend=TEXT, torch_compile_mode=TEXT),
    *_rows("generating", _OUT, num_beams=1, length_penalty=1.0),
)

_MEDIA = "leave it out; Burnish trains on text"
_VENDOR = "use finetuning_type: lora, and leave it out"

NEVER: tuple[Row, ...] = (
    *_rows("data", _MEDIA, media_dir=PATH),
    *_rows("data", "use num_beams: 1", eval_num_beams=WHOLE),
    *_rows("model", _OUT, shift_attn=False, mixture_of_depths=TEXT),
    *_rows("model", "use flash_attn: auto", use_unsloth=False, use_unsloth_gc=False),
    *_rows("model", "leave it out; weights are always saved as safetensors", export_legacy_format=False),
    *_rows("model", _OUT, moe_aux_loss_coef=NUMBER, use_kv_cache=True, use_kt=False),
    *_rows("model", _MEDIA, image_max_pixels=768 * 768, image_min_pixels=32 * 32, image_do_pan_and_scan=False),
    *_rows("model", _MEDIA, video_max_pixels=256 * 256, video_min_pixels=16 * 16, video_fps=2.0, video_maxlen=128),
    *_rows("model", _MEDIA, audio_sampling_rate=16000, use_audio_in_video=False, crop_to_patches=False),
    *_rows("tuning", _VENDOR, use_galore=False, use_apollo=False, use_badam=False, use_llama_pro=False),
    *_rows("tuning", _OUT, use_mca=False, use_dft_loss=False),
    *_rows("training", "set per_device_train_batch_size yourself", auto_find_batch_size=False),
    *_rows(
        "training",
        "leave it out; the loss always counts tokens over all devices",
        average_tokens_across_devices=True,
    ),
    *_rows("training", "leave it out; weights are always saved as safetensors", save_safetensors=True),
    *_rows("training", "leave it out; the launcher sets it", local_rank=-1),
)

FAMILIES: Mapping[str, Row] = MappingProxyType(
    {
        row.key: row
        for row in (
            Row("image_", "model", (), _MEDIA),
            Row("video_", "model", (), _MEDIA),
            Row("audio_", "model", (), _MEDIA),
            Row("export_quantization_", "model", (), "use burnish export --format gguf --quantize q8_0"),
            Row("vllm_", "model", (), "use infer_backend: huggingface and leave it out"),
            Row("sglang_", "model", (), "use infer_backend: huggingface and leave it out"),
            Row("kt_", "model", (), _OUT),
            Row("galore_", "tuning", (), _VENDOR),
            Row("apollo_", "tuning", (), _VENDOR),
            Row("badam_", "tuning", (), _VENDOR),
            Row("oft_", "tuning", (), "use finetuning_type: lora and leave it out"),
            Row(
                "swanlab_",
                "training",
                (),
                "use swanlab's environment variables, such as SWANLAB_PROJECT, SWANLAB_MODE and SWANLAB_API_KEY",
            ),
        )
    }
)
"""Beginnings of names that all belong to one feature Burnish does not have."""
