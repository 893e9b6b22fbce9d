"""llama.cpp in this process: the one place where it is started, for serving a .gguf file and for checking one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from burnish.errors import MissingExtraError, ModelError


@dataclass(frozen=True)
class LlamaProgram:
    """llama.cpp with a file loaded.

    `server`: xllamacpp's object, whose handlers answer without a network. `address`: the port that it opens on this
    machine besides, for what has no handler. `key`: what that port asks for.
    """

    server: Any
    key: str

    @property
    def address(self) -> str:
        return str(self.server.listening_address)


def is_installed() -> bool:
    """Whether llama.cpp is there as a Python package (the extra `llamacpp`)."""
    return find_spec("xllamacpp") is not None


def start_llamacpp(
    file: Path,
    *,
    window: int,
    slots: int = 1,
    threads: int | None = None,
    cpu: bool = False,
    exact: bool = False,
    fix: str | None = None,
) -> LlamaProgram:
    """Load a .gguf file into llama.cpp.

    Args:
        window: tokens of prompt and answer together that each slot has room for.
        slots: answers at a time.
        threads: of the processor; None leaves the number to llama.cpp.
        cpu: leave accelerators alone.
        exact: as exact as llama.cpp can be: on the CPU, keys and values in float32, no fused attention.
        fix: what the user is told to do about a file that it does not take.
    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelError: llama.cpp refuses the file.
    """
    if not is_installed():
        raise MissingExtraError("llama.cpp", "llamacpp")
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(file)
    wanted.n_ctx, wanted.n_parallel = window * slots, slots
    wanted.warmup = False
    wanted.verbosity = -1
    # It opens a port of its own on this machine, which nobody else shall use.
    key = secrets.token_hex(32)
    wanted.api_keys = [key]
    wanted.ui = wanted.endpoint_slots = wanted.endpoint_metrics = wanted.endpoint_props = False
    if threads is not None:
        wanted.cpuparams.n_threads = threads
    if cpu or exact:
        wanted.n_gpu_layers = 0
    if exact:
        wanted.cache_type_k = wanted.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        wanted.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    try:
        return LlamaProgram(xllamacpp.Server(wanted), key)
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip() or "unknown reason").splitlines()[0]
        raise ModelError(f"llama.cpp cannot read this file: {first[:300]}", at=str(file), fix=fix) from error
