"""Which models can be written as GGUF, and how llama.cpp's layout of each differs from Hugging Face's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType
from torch import Tensor

from burnish.errors import ModelError


@dataclass(frozen=True)
class Family:
    """A family of models in llama.cpp.

    Attributes:
        arch: its number in the `gguf` package.
        interleaved: rotary positions turn neighbouring numbers, not the two halves of a head: rows of the query and
            key weights change places.
        shifted_norms: the file holds 1 + weight of each norm.
        large_at: the number of layers at which llama.cpp scales attention by hidden size / heads, not by head size.
        swa_period: every so many layers, one attends to everything; None where all do.
    """

    arch: Any
    interleaved: bool = False
    shifted_norms: bool = False
    large_at: int | None = None
    swa_period: int | None = None

    @property
    def name(self) -> str:
        """As it stands in the file."""
        return MODEL_ARCH_NAMES[self.arch]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(MODEL_ARCH.LLAMA, interleaved=True),
        "mistral": Family(MODEL_ARCH.LLAMA, interleaved=True),
        "qwen2": Family(MODEL_ARCH.QWEN2),
        "qwen3": Family(MODEL_ARCH.QWEN3),
        "gemma": Family(MODEL_ARCH.GEMMA, shifted_norms=True),
        "gemma2": Family(MODEL_ARCH.GEMMA2, shifted_norms=True, large_at=46, swa_period=2),
        "gemma3_text": Family(MODEL_ARCH.GEMMA3, shifted_norms=True, large_at=62, swa_period=6),
    }
)
"""`model_type` of config.json → its family."""


def family_of(config: Any) -> Family:
    """The family of a model. Raises ModelError, with the families that can be written, for any other."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise ModelError(
            f"a model of the kind '{kind}' cannot be written as GGUF",
            at="model_type in config.json",
            fix=f"the families that can: {', '.join(sorted(FAMILIES))}; --format hf takes every model",
        )
    family = FAMILIES[kind]
    _check(config, family)
    return family


def _check(config: Any, family: Family) -> None:
    """Raise ModelError for values that llama.cpp would silently take to be others."""
    wrong = None
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", "silu")
    wanted = ("gelu_pytorch_tanh", "gelu") if family.shifted_norms else ("silu",)
    if activation not in wanted:
        wrong = f"activation {activation}"
    if family.swa_period is not None:
        every = [(i + 1) % family.swa_period == 0 for i in range(config.num_hidden_layers)]
        if [kind == "full_attention" for kind in config.layer_types] != every:
            wrong = f"layers of full attention that are not every {family.swa_period}th"
        large = config.num_hidden_layers == family.large_at
        scale = config.hidden_size // config.num_attention_heads if large else config.head_dim
        if config.query_pre_attn_scalar != scale:
            wrong = f"query_pre_attn_scalar {config.query_pre_attn_scalar}, where {scale} is taken"
    wrong = _wrong_rope(config) or wrong
    if getattr(config, "mlp_bias", False):
        wrong = "biases in the MLP"
    if getattr(config, "attention_bias", False) and family.arch != MODEL_ARCH.LLAMA:
        wrong = "biases in attention"
    if wrong:
        raise ModelError(
            f"llama.cpp's {family.name} has no {wrong}", at="config.json of the model", fix="use --format hf"
        )


def _wrong_rope(config: Any) -> str | None:
    """What of a model's rotary positions llama.cpp does not have, or None. The file says no more than `write_shape`."""
    rope = _full_rope(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "llama3"):
        return f"rope scaling of the kind {kind}"
    usual: dict[str, float | None] = {"partial_rotary_factor": 1.0}
    if kind == "yarn":
        attention = 0.1 * math.log(rope["factor"]) + 1.0  # YaRN, arXiv:2309.00071, eq. 22
        usual |= {"attention_factor": attention, "beta_fast": 32, "beta_slow": 1, "truncate": True}
        usual |= {"mscale": None, "mscale_all_dim": None}
    local = config.rope_parameters.get("sliding_attention", {})
    for name, value in usual.items():
        found = rope.get(name)
        if found not in (None, value) and not (isinstance(value, float) and math.isclose(found, value)):
            return f"{name} {found} in its positions"
    if local.get("rope_type", "default") != "default":
        return f"rope scaling of the kind {local['rope_type']} in sliding windows"
    return None


def head_size(config: Any) -> int:
    """Numbers in one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _full_rope(config: Any) -> Mapping[str, Any]:
    """The rotary parameters of layers that attend to everything."""
    own = config.rope_parameters
    return own.get("full_attention", own)


def longest_text(config: Any, family: Family) -> int:
    """Tokens that a text may have in llama.cpp as here: a window that llama.cpp does not know ends it."""
    window = getattr(config, "sliding_window", None)
    slides = window is not None and family.swa_period is None and getattr(config, "use_sliding_window", True)
    return min(config.max_position_embeddings, window) if slides and window else config.max_position_embeddings


def write_shape(writer: GGUFWriter, config: Any, family: Family) -> None:
    """The numbers that describe the model."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(longest_text(config, family))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_rope_dimension_count(head_size(config))
    rope = _full_rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings")
        writer.add_rope_scaling_orig_ctx_len(int(original or config.max_position_embeddings / rope["factor"]))
    if family.swa_period is not None:
        writer.add_sliding_window(config.sliding_window)
        local = config.rope_parameters.get("sliding_attention")
        if local is not None:
            writer.add_rope_freq_base_swa(local["rope_theta"])
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, name, None):
            getattr(writer, f"add_{name}")(getattr(config, name))


def in_their_layout(name: str, tensor: Tensor, config: Any, family: Family) -> Tensor:
    """A tensor as llama.cpp's family holds it.

    Args:
        name: of Hugging Face.
        tensor: any shape, float32.
    Source: rotary positions, RoFormer, arXiv:2104.09864, eq. 34: which numbers of a head are turned together.
    """
    if family.shifted_norms and name.endswith("norm.weight"):
        return tensor + 1
    if family.interleaved and ".self_attn." in name and name.rsplit(".", 2)[-2] in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])  # [heads, half, pair, …]
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def stretching(model: Any, config: Any) -> Tensor | None:
    """By how much each rotary frequency is slowed down, [head / 2] float32; None where the file needs no table."""
    rope = _full_rope(config)
    if rope.get("rope_type", "default") != "llama3":
        return None
    size = head_size(config)
    plain = 1.0 / (rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    return plain / model.model.rotary_emb.inv_freq.float().cpu()
