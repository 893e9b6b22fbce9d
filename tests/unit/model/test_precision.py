"""bf16 only where the machine is good at it, and the choice is said."""

import torch

from burnish.model.precision import choose_precision

CPU = torch.device("cpu")


def test_a_cpu_without_bf16_computes_in_fp32_even_when_asked():
    chosen = choose_precision(CPU, bf16=True, flags={"avx512f"})
    assert chosen.dtype == torch.float32
    assert "although the settings ask for bf16" in chosen.why


def test_a_cpu_with_bf16_uses_it():
    for flag in ("amx_bf16", "avx512_bf16"):
        chosen = choose_precision(CPU, flags={flag})
        assert chosen.dtype == torch.bfloat16
        assert flag in chosen.why


def test_pure_bf16_is_an_order():
    assert choose_precision(CPU, pure_bf16=True, flags=set()).dtype == torch.bfloat16


def test_bf16_false_is_an_order_too():
    assert choose_precision(CPU, bf16=False, flags={"amx_bf16"}).dtype == torch.float32
    assert choose_precision(torch.device("cuda"), bf16=False).dtype == torch.float32
