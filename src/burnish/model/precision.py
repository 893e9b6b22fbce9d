"""Which number format to compute in, by what the machine does well, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from burnish.runs.environment import cpu_flags

# Instruction sets that make bf16 matrix multiplication faster than fp32: Intel AMX, AVX512-BF16, Arm's bf16.
_CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Precision:
    """`dtype` of weights and activations; `mixed` is accelerate's mixed-precision name; `why` is for people."""

    dtype: torch.dtype
    mixed: str
    why: str

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_device(use_cpu: bool = False) -> torch.device:
    """The accelerator that is there (CUDA, then Apple's MPS), or the CPU."""
    if use_cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_precision(
    device: torch.device,
    *,
    bf16: bool | None = None,
    fp16: bool = False,
    pure_bf16: bool = False,
    flags: set[str] | None = None,
) -> Precision:
    """Choose bf16 or fp32 (or fp16 where it is asked for on a GPU).

    `bf16: true` asks for speed, not for rounding: a CPU without bf16 instructions computes in fp32, which is faster
    there and more exact. `pure_bf16: true` forces bf16 weights everywhere.

    Args:
        flags: the CPU's instruction sets; None reads this machine's.
    """
    if pure_bf16:
        return Precision(torch.bfloat16, "no", "bf16 (pure_bf16 is set)")
    if bf16 is False and not fp16:
        return Precision(torch.float32, "no", "fp32 (the settings say bf16: false)")
    if device.type == "cpu":
        flags = cpu_flags() if flags is None else flags
        found = next((flag for flag in _CPU_BF16 if flag in flags), None)
        if found:
            return Precision(torch.bfloat16, "no", f"bf16 (this CPU has {found} instructions)")
        asked = "bf16" if bf16 else "fp16" if fp16 else None
        why = "fp32 (this CPU has no bf16 instructions, fp32 is faster on it"
        return Precision(torch.float32, "no", why + (f", although the settings ask for {asked})" if asked else ")"))
    if fp16:
        return Precision(torch.float32, "fp16", "fp16 mixed precision over fp32 weights")
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Precision(torch.float32, "no", "fp32 (this GPU has no bf16; fp16: true is the fast way on it)")
    return Precision(torch.bfloat16, "no", "bf16 weights, fp32 copies of what is trained in the optimizer")
