"""Settings of the base model: where it comes from and how it is held in memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from burnish.config.fields import (
    CHOICE,
    Flag,
    Names,
    Number,
    Paths,
    PathText,
    RoomSettings,
    Text,
    Whole,
    as_word,
    setting,
)

Attention = Annotated[Literal["auto", "disabled", "sdpa", "fa2"], CHOICE, BeforeValidator(as_word)]
InferBackend = Annotated[Literal["huggingface"], CHOICE, BeforeValidator(as_word)]
RopeScaling = Annotated[Literal["linear", "dynamic", "yarn", "llama3"], CHOICE, BeforeValidator(as_word)]
ExportDevice = Annotated[Literal["cpu", "auto"], CHOICE, BeforeValidator(as_word)]
InferDtype = Annotated[Literal["auto", "float16", "bfloat16", "float32"], CHOICE, BeforeValidator(as_word)]
QuantizationMethod = Annotated[
    Literal["bnb"], CHOICE, BeforeValidator(lambda value: "bnb" if value == "bitsandbytes" else as_word(value))
]
QuantizationType = Annotated[Literal["nf4", "fp4"], CHOICE, BeforeValidator(as_word)]


class ModelSettings(RoomSettings):
    """Which model, from where, and how it is loaded."""

    model_name_or_path: PathText | None = setting(
        None, "The base model: a local folder, a GGUF file or a name on the Hugging Face Hub."
    )
    adapter_name_or_path: Paths = setting(
        (), "Folders or Hub names of LoRA adapters that are loaded onto the base model, in this order."
    )
    cache_dir: PathText | None = setting(None, "Folder that keeps models downloaded from the Hub.")
    model_revision: Text = setting("main", "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: Flag = setting(False, "Whether Python code that comes with a model may run on this machine.")
    hf_hub_token: Text | None = setting(
        None,
        "Access token for private or gated models on the Hub; never written to the run folder.",
        secret=True,
    )
    ms_hub_token: Text | None = setting(
        None, "Access token of ModelScope, for datasets there (models are given as folders).", secret=True
    )
    flash_attn: Attention = setting(
        "auto",
        "How attention is computed: auto lets Burnish choose, sdpa is PyTorch's own, fa2 needs the "
        "flash-attn package, disabled is the plain reference.",
    )
    fused_layers: Flag | None = setting(
        None,
        "Compute norms, gated MLPs, LoRA layers and rotary embeddings with Burnish's kernels: the same result in less "
        "memory and time.",
        derived="true on a CPU, where they were measured",
    )
    enable_liger_kernel: Flag = setting(
        False, "On an NVIDIA GPU: rotary positions, norms and MLPs are computed by the liger-kernel package."
    )
    disable_gradient_checkpointing: Flag = setting(
        False,
        "Keep all activations in memory, which is faster; the same as gradient_checkpointing: false.",
    )
    resize_vocab: Flag = setting(
        False, "Give the model a row for each token of its tokenizer that has none yet; add_tokens implies it."
    )
    add_tokens: Names = setting((), "New ordinary tokens for the tokenizer, with rows in the model that are trained.")
    add_special_tokens: Names = setting(
        (), "The same as special tokens, which are left out of text that is shown; text may spell them."
    )
    new_special_tokens_config: PathText | None = setting(
        None,
        "YAML or JSON file of new special tokens, each with a description whose mean embedding it starts from.",
    )
    rope_scaling: RopeScaling | None = setting(
        None, "Stretch rotary positions so that texts of cutoff_len tokens fit a model made for shorter ones."
    )
    train_from_scratch: Flag = setting(False, "Start from random weights; only the shape is taken from the model.")
    upcast_layernorm: Flag = setting(False, "Compute norm layers in float32 where the rest is in bfloat16.")
    infer_backend: InferBackend = setting("huggingface", "The engine that generates text.")
    infer_dtype: InferDtype = setting(
        "auto",
        "Number format of the weights when a model only generates (auto: what the machine does well) or is exported.",
    )
    print_param_status: Flag = setting(
        False, "Print name, number format, device and trainability of every parameter after loading."
    )
    quantization_bit: Whole | None = setting(
        None, "Hold the base model in 8 or 4 bits a weight and train an adapter on it; 16 quantizes nothing."
    )
    quantization_method: QuantizationMethod = setting("bnb", "The library that quantizes: bnb is bitsandbytes.")
    quantization_type: QuantizationType = setting(
        "nf4", "Number format of 4-bit weights: nf4, made for normally distributed ones, or fp4."
    )
    double_quantization: Flag = setting(
        True, "Quantize the scales of 4-bit weights too, which saves 0.4 bits a weight."
    )
    export_dir: PathText | None = setting(None, "Folder to which `burnish export` writes; --to says the same.")
    export_size: Number = setting(5.0, "Most of one file of exported weights, in GB (10^9 bytes).", gt=0)
    export_device: ExportDevice = setting(
        "cpu", "Where weights are merged for export: cpu, or auto for the machine's accelerator."
    )
    export_hub_model_id: Text | None = setting(
        None, "Name on the Hugging Face Hub, such as me/my-model, to which `burnish export` uploads what it wrote."
    )
