"""The kernel for rotary embeddings equals the formula, forward and back, in every layout."""

import pytest
import torch

from burnish.kernels import rotary as module
from burnish.kernels.rotary import rotary, rotary_reference, rotates_natively
from tests.machines import compiled_for, forgotten, needs_compiler


def made(tokens, heads, shared, size, dtype=torch.float32, rows=True):
    torch.manual_seed(0)
    if rows:  # as a projection leaves them
        given = [torch.randn(1, tokens, count, size).transpose(1, 2) for count in (heads, shared)]
    else:  # as a norm of heads may leave them
        given = [torch.randn(1, count, tokens, size) for count in (heads, shared)]
    angles = [torch.randn(1, tokens, size).to(dtype) for _ in range(2)]  # all different: no half stands for another
    return [each.to(dtype).requires_grad_() for each in given], angles


@needs_compiler
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize(
    ("tokens", "heads", "shared", "size"), [(1, 1, 1, 64), (7, 4, 2, 32), (50, 3, 3, 96), (5, 4, 1, 128)]
)
def test_equals_the_reference(tokens, heads, shared, size, rows):
    inputs, angles = made(tokens, heads, shared, size, rows=rows)
    assert rotates_natively(*inputs, *angles)
    ours, plain = rotary(*inputs, *angles), rotary_reference(*inputs, *angles)
    slopes = [torch.randn_like(each) for each in ours]
    found = [(*each, *torch.autograd.grad(each, inputs, slopes)) for each in (ours, plain)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@needs_compiler
def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_formula():
    rough, angles = made(60, 4, 2, 64, torch.bfloat16)
    exact = [each.detach().float().requires_grad_() for each in rough]
    assert rotates_natively(*rough, *angles)
    ours, plain = rotary(*rough, *angles), rotary_reference(*rough, *angles)
    right = rotary_reference(*exact, *(each.float() for each in angles))
    slopes = [torch.randn_like(each) for each in ours]
    found = [(*each, *torch.autograd.grad(each, rough, slopes)) for each in (ours, plain)]
    wanted = *right, *torch.autograd.grad(right, exact, [each.float() for each in slopes])
    for one, other, true in zip(*found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - true).norm() <= (other.float() - true).norm()


@needs_compiler
def test_what_the_kernel_does_not_take():
    (query, key), (cosines, sines) = made(5, 2, 1, 64)
    assert rotates_natively(query, key, cosines, sines)
    assert not rotates_natively(query.half(), key.half(), cosines.half(), sines.half())
    assert not rotates_natively(query.bfloat16(), key, cosines, sines)
    assert not rotates_natively(query, key, cosines[..., :32], sines[..., :32])  # a part of each head is turned
    assert not rotates_natively(*(each[..., :24] for each in (query, key, cosines, sines)))  # no whole vectors
    assert not rotates_natively(*(torch.cat([each, each]) for each in (query, key, cosines, sines)))  # two rows
    assert not rotates_natively(query, key, cosines.requires_grad_(), sines)


@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_machines_with_fewer_instructions(machine, tmp_path, monkeypatch):
    library = compiled_for(machine, "rotate", tmp_path)
    monkeypatch.setattr(module, "native", lambda name: library)
    with forgotten(module._compiled, module._lanes):
        test_equals_the_reference(7, 4, 2, {"x86-64": 8, "x86-64-v3": 16, "x86-64-v4": 32}[machine], True)
        test_in_bf16_it_is_as_near_to_fp32_as_the_plain_formula()
