"""The attention kernel in C equals one big masked softmax, whatever the blocks, the layout and the threads."""

import pytest
import torch

from burnish.kernels import document_attention as module
from burnish.kernels.attention import masked_attention_reference, packed_attention
from burnish.kernels.document_attention import attends_natively, document_attention
from burnish.kernels.native import CannotCompile
from tests.machines import compiled_for, forgotten, needs_compiler

# Lengths around the blocks of 48 queries and 128 keys: (documents, window, shared prompts).
SHAPES = {
    "one token": ([1], None, None),
    "a block": ([128], None, None),
    "one more": ([129, 49], None, None),
    "many": ([130, 50, 1, 300], None, None),
    "window": ([130, 50, 1, 300], 40, None),
    "window of one": ([5, 60], 1, None),
    "wide window": ([500], 200, None),
    "pairs": ([200, 90, 150, 149], None, [120, 100]),
    "pairs, window": ([200, 90, 150, 300], 60, [140, 100]),
    "all shared": ([129, 1], None, [129]),
    "one pair of two": ([7, 3, 9, 2], None, [0, 5]),
}


def made(lengths, heads, shared, size, rows=True):
    torch.manual_seed(0)
    total = sum(lengths)
    if rows:  # as a projection leaves them: the heads of a token beside each other
        tensors = [torch.randn(1, total, count, size).transpose(1, 2) for count in (heads, shared, shared)]
    else:  # as a rotation leaves them
        tensors = [torch.randn(1, count, total, size) for count in (heads, shared, shared)]
    return [tensor.requires_grad_() for tensor in tensors]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 2, 64), (3, 3, 80), (4, 1, 96), (2, 1, 128)])
def test_equals_the_reference(shape, heads, shared, size):
    lengths, window, prompts = SHAPES[shape]
    inputs = made(lengths, heads, shared, size, rows=size != 80)
    assert attends_natively(*inputs)
    ours = document_attention(*inputs, lengths, size**-0.5, window, prompts)
    plain = masked_attention_reference(*inputs, lengths, size**-0.5, prompts, window=window)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    slope = torch.randn_like(ours)
    gradients = (torch.autograd.grad(each, inputs, slope) for each in (ours, plain))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 2, 64), (3, 3, 80), (4, 1, 96), (2, 1, 128)])
def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_formula(shape, heads, shared, size):
    lengths, window, prompts = SHAPES[shape]
    rough = [each.detach().bfloat16().requires_grad_() for each in made(lengths, heads, shared, size, rows=size != 80)]
    exact = [each.detach().float().requires_grad_() for each in rough]
    assert attends_natively(*rough)
    given = lengths, size**-0.5
    ours = document_attention(*rough, *given, window, prompts)
    assert ours.dtype == torch.bfloat16
    plain = masked_attention_reference(*rough, *given, prompts, window=window)
    right = masked_attention_reference(*exact, *given, prompts, window=window)
    slope = torch.randn_like(ours)
    found = [(out, *torch.autograd.grad(out, rough, slope)) for out in (ours, plain)]
    wanted = right, *torch.autograd.grad(right, exact, slope.float())
    for one, other, true in zip(*found, wanted, strict=True):
        # A token that sees itself alone has scores without a slope; what is left of them is rounding.
        norm, error = true.norm(), (one.float() - true).norm()
        assert error <= 1.1 * (other.float() - true).norm() + 1e-3 * norm + 1e-4
        assert error <= 0.01 * norm + 1e-4  # bfloat16 has 8 bits


@needs_compiler
def test_large_scores_overflow_nowhere():
    """Scores of thousands: the softmax is one for the greatest, and nothing is infinite on the way back."""
    query, key, value = made([200], 2, 1, 64)
    mixed = document_attention(query * 100, key * 100, value, [200], 1.0)
    plain = masked_attention_reference(query.double() * 100, key.double() * 100, value.double(), [200], 1.0)
    torch.testing.assert_close(mixed, plain.float(), atol=2e-2, rtol=1e-3)  # scores of 1e5 have a float32 step of 0.008
    for slope in torch.autograd.grad(mixed.sum(), (query, key, value)):
        assert slope.isfinite().all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_bit(dtype):
    lengths = [300, 20, 150]
    inputs = [each.detach().to(dtype).requires_grad_() for each in made(lengths, 4, 2, 64)]
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = document_attention(*inputs, lengths, 0.125)
            found.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@needs_compiler
def test_documents_do_not_depend_on_their_neighbours():
    lengths = [60, 130]
    inputs = made(lengths, 4, 2, 64)
    whole = document_attention(*inputs, lengths, 0.125)
    alone = document_attention(*(each[:, :, 60:] for each in inputs), [130], 0.125)
    assert torch.equal(whole[:, :, 60:], alone)


@needs_compiler
def test_what_the_kernel_does_not_take():
    inputs = [each.detach() for each in made([5], 2, 1, 64)]
    assert attends_natively(*inputs)
    assert attends_natively(*(each.bfloat16() for each in inputs))
    assert not attends_natively(inputs[0].bfloat16(), *inputs[1:])
    assert not attends_natively(*(each.half() for each in inputs))
    assert not attends_natively(*(each[..., :9] for each in inputs))  # no whole vector
    assert not attends_natively(inputs[0], inputs[1], inputs[2][..., :32])
    assert not attends_natively(*(each.mT.contiguous().mT for each in inputs))


def test_without_a_compiler_pytorch_attends(monkeypatch):
    def none(name):
        raise CannotCompile("no C compiler (cc, gcc or clang) was found")

    monkeypatch.setattr(module, "native", none)
    with forgotten(module._compiled, module.whole_vectors):
        inputs = made([5, 3], 2, 1, 64)
        assert not attends_natively(*inputs)
        found = packed_attention(*inputs, [5, 3], 0.125)
        torch.testing.assert_close(found, masked_attention_reference(*inputs, [5, 3], 0.125))


@needs_compiler
def test_a_kernel_that_is_wrong_is_not_used(monkeypatch):
    """Compilers err. What does not give PyTorch's numbers on made-up ones is never asked again."""
    right = module.document_attention
    monkeypatch.setattr(module, "document_attention", lambda *given: right(*given) * 1.01)
    with forgotten(module.whole_vectors):
        assert module.whole_vectors() is None


@needs_compiler
def test_the_trial_needs_no_gradients_around_it():
    """The first attention of a process may be that of a prompt, where nothing is recorded."""
    with forgotten(module.whole_vectors), torch.inference_mode():
        assert module.whole_vectors()


def test_a_variable_switches_it_off(monkeypatch):
    monkeypatch.setenv("BURNISH_ATTENTION", "plain")
    with forgotten(module.whole_vectors):
        assert module.whole_vectors() is None


@pytest.mark.parametrize("machine", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_machines_with_fewer_instructions(machine, tmp_path, monkeypatch):
    library = compiled_for(machine, "attend", tmp_path)
    monkeypatch.setattr(module, "native", lambda name: library)
    with forgotten(module._compiled, module.whole_vectors):
        assert module.whole_vectors() == {"x86-64": 4, "x86-64-v3": 8, "x86-64-v4": 16}[machine]
        for shape in ("many", "window", "pairs, window"):
            test_equals_the_reference(shape, 4, 2, 64)
            test_equals_the_reference(shape, 3, 3, {"x86-64": 20, "x86-64-v3": 72, "x86-64-v4": 80}[machine])
            test_in_bf16_it_is_as_near_to_fp32_as_the_plain_formula(shape, 4, 2, 64)
