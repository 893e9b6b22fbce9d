"""One GGUF file from a model in memory, tensor by tensor."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from burnish.errors import BurnishError, ModelError
from burnish.export.gguf_families import family_of, in_their_layout, stretching, write_shape
from burnish.export.gguf_tokenizer import Vocabulary, write_tokenizer
from burnish.template import ChatTemplate

_TYPES = gguf.GGMLQuantizationType
OWN_KINDS: Mapping[str, tuple[Any, Any]] = {
    "f32": (_TYPES.F32, gguf.LlamaFileType.ALL_F32),
    "bf16": (_TYPES.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "f16": (_TYPES.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (_TYPES.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
"""Kinds of numbers that are written here → the type of matrices, and of the file."""
THEIR_KINDS = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
"""Kinds that llama.cpp's own quantizer makes."""
QUANTIZER = "llama-quantize"
_LONGEST = 3600  # seconds for the quantizer


def write_gguf(
    model: Any,
    words: Vocabulary,
    tokenizer: Any,
    template: ChatTemplate | None,
    file: Path,
    kind: str,
    *,
    name: str,
    on_tensor: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write a model, its tokenizer and its template.

    Matrices get the chosen kind of numbers, norms and biases float32, as in llama.cpp. Only one tensor is held twice.

    Args:
        kind: one of `OWN_KINDS`.
        name: of the model, for people.
        on_tensor: called after each tensor.
    Returns:
        What a user should know: matrices that had to be kept in f16, stop tokens without a place.
    Raises:
        ModelError: a tensor has no place in llama.cpp's layout.
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)
    config = model.config.get_text_config()
    family = family_of(config)
    matrix_type, file_type = OWN_KINDS[kind]
    writer = gguf.GGUFWriter(file, family.name)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_shape(writer, config, family)
    homeless = write_tokenizer(writer, words, tokenizer, template)
    notes = [f"stop tokens beside the first three are not in the file: {homeless}"] if homeless else []
    tensors = _named(model, config, family)
    kept = 0
    types = {}
    for theirs, (_, tensor) in tensors.items():
        types[theirs] = _type_of(theirs, tensor, matrix_type)
        kept += types[theirs] is _TYPES.F16 and matrix_type is not _TYPES.F16
        shape = gguf.quant_shape_to_byte_shape(tuple(tensor.shape), types[theirs])
        bytes_in = np.dtype(np.uint8)
        writer.add_tensor_info(theirs, shape, bytes_in, int(np.prod(shape)), raw_dtype=types[theirs])
    if kept:
        notes.append(f"{kept} matrices whose rows are no multiple of 32 are in f16")
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for theirs, (ours, tensor) in tensors.items():
            plain = in_their_layout(ours, tensor.detach().float().cpu(), config, family).contiguous().numpy()
            writer.write_tensor_data(gguf.quantize(plain, types[theirs]).view(np.uint8))
            on_tensor()
    finally:
        writer.close()
    return notes


def _named(model: Any, config: Any, family: Any) -> dict[str, tuple[str, Tensor]]:
    """llama.cpp's names → ours, and the tensors. A head that is tied to the embeddings is left out."""
    names = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    found = {}
    for ours, tensor in model.state_dict().items():
        if tied and ours == "lm_head.weight":
            continue
        theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(
                f"llama.cpp's {family.name} has no place for the tensor {ours}", at="GGUF", fix="use --format hf"
            )
        found[theirs] = (ours, tensor)
    table = stretching(model, config)
    if table is not None:
        found["rope_freqs.weight"] = ("rope_freqs", table)
    return found


def tensor_count(model: Any) -> int:
    """How many tensors `write_gguf` writes at most."""
    return len(model.state_dict())


def _type_of(name: str, tensor: Tensor, matrix_type: Any) -> Any:
    if tensor.ndim < 2 or name.endswith("_norm.weight"):
        return _TYPES.F32
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[matrix_type][0]:
        return _TYPES.F16
    return matrix_type


def bytes_needed(parameters: int, kind: str) -> int:
    """About how large a file gets, with the whole one that llama.cpp's quantizer starts from."""
    sizes = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32}
    return int(parameters * sizes.get(kind, 2.0 + 1.0))


def require_kind(kind: str) -> None:
    """Raise BurnishError for a kind of numbers that cannot be written here."""
    if kind in OWN_KINDS:
        return
    if kind not in THEIR_KINDS:
        raise BurnishError(
            f"unknown kind of numbers '{kind}'",
            at="--quantize",
            fix=f"written here: {', '.join(OWN_KINDS)}; by {QUANTIZER}: {', '.join(THEIR_KINDS)}",
        )
    if shutil.which(QUANTIZER) is None:
        raise BurnishError(
            f"{kind} is made by llama.cpp's {QUANTIZER}, which is not installed",
            at="--quantize",
            fix=f"install llama.cpp so that {QUANTIZER} is on the PATH, or choose {', '.join(OWN_KINDS)}",
        )


def quantize_further(source: Path, file: Path, kind: str) -> None:
    """Let llama.cpp's quantizer make a file of another kind from a whole one. Raises BurnishError where it fails."""
    program = shutil.which(QUANTIZER)
    assert program is not None
    done = subprocess.run(
        [program, str(source), str(file), kind.upper()], capture_output=True, text=True, timeout=_LONGEST, check=False
    )
    if done.returncode or not file.is_file():
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise BurnishError(f"{QUANTIZER} failed: {' / '.join(last)}", at=program, fix="nothing was exported")
