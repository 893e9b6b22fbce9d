"""Projections with adapters and the gated MLP equal what autograd makes of the plain formulas."""

import itertools

import pytest
import torch

from burnish.kernels.projections import (
    ACTIVATIONS,
    Projection,
    gated_mlp,
    gated_mlp_reference,
    linear,
    linear_reference,
)
from burnish.kernels.rms_norm import _last, rms_norm, rms_norm_reference

pytestmark = pytest.mark.usefixtures("both_ways")


def projection(outputs, inputs, *, rank=0, bias=False, trained=False, dtype=torch.float32):
    def made(*shape, grad):
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(dtype).requires_grad_(grad)

    return Projection(
        made(outputs, inputs, grad=trained),
        made(outputs, grad=trained) if bias else None,
        made(rank, inputs, grad=True) if rank else None,
        made(outputs, rank, grad=True) if rank else None,
        scale=0.7,
    )


def same(fast, plain, leaves, **near):
    leaves = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    torch.testing.assert_close(fast, plain, **near)
    seed = torch.randn(fast.shape).to(fast.dtype)
    ours, theirs = (torch.autograd.grad(result, leaves, seed, retain_graph=True) for result in (fast, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **near)


NEAR = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (11,)])
@pytest.mark.parametrize(("rank", "bias", "trained"), itertools.product([0, 1, 4], [False, True], [False, True]))
def test_linear(shape, rank, bias, trained):
    torch.manual_seed(3)
    inputs = torch.randn(*shape, 12, requires_grad=True)
    one = projection(8, 12, rank=rank, bias=bias, trained=trained)
    same(linear(inputs, one), linear_reference(inputs, one), [inputs, *one.tensors], **NEAR)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rank", "bias", "trained"), [(0, False, True), (4, False, False), (2, True, True)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9)])
def test_gated_mlp(activation, rank, bias, trained, shape):
    torch.manual_seed(4)
    inputs = torch.randn(*shape, 12, requires_grad=True)
    parts = [projection(*size, rank=rank, bias=bias, trained=trained) for size in ((20, 12), (20, 12), (12, 20))]
    leaves = [inputs, *(tensor for part in parts for tensor in part.tensors)]
    fast, plain = (form(inputs, *parts, activation) for form in (gated_mlp, gated_mlp_reference))
    same(fast, plain, leaves, **NEAR)


def test_the_first_layer_reads_what_nobody_trains():
    inputs = torch.randn(1, 5, 12)
    one = projection(8, 12, rank=2)
    same(linear(inputs, one), linear_reference(inputs, one), one.tensors, **NEAR)
    parts = [projection(*size, rank=2) for size in ((20, 12), (20, 12), (12, 20))]
    leaves = [tensor for part in parts for tensor in part.tensors]
    same(gated_mlp(inputs, *parts, "silu"), gated_mlp_reference(inputs, *parts, "silu"), leaves, **NEAR)


def test_only_some_layers_have_adapters():
    torch.manual_seed(5)
    inputs = torch.randn(1, 5, 12, requires_grad=True)
    for has in itertools.product([0, 3], repeat=3):
        parts = [projection(*size, rank=rank) for size, rank in zip(((20, 12), (20, 12), (12, 20)), has, strict=True)]
        leaves = [inputs, *(tensor for part in parts for tensor in part.tensors)]
        same(gated_mlp(inputs, *parts, "silu"), gated_mlp_reference(inputs, *parts, "silu"), leaves, **NEAR)


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_formulas():
    torch.manual_seed(6)
    exact = [projection(*size, rank=4) for size in ((200, 64), (200, 64), (64, 200))]
    rough = [
        Projection(*[t if t is None else t.detach().bfloat16().requires_grad_(t.requires_grad) for t in p.tensors], 0.7)
        for p in exact
    ]
    inputs = torch.randn(1, 33, 64)
    wanted = gated_mlp_reference(inputs, *exact, "silu")
    fast, plain = (form(inputs.bfloat16(), *rough, "silu") for form in (gated_mlp, gated_mlp_reference))
    assert fast.dtype == torch.bfloat16
    seed = torch.randn_like(wanted)
    adapters = [t for p in exact for t in p.tensors if t is not None and t.requires_grad]
    halves = [t for p in rough for t in p.tensors if t is not None and t.requires_grad]
    right = torch.autograd.grad(wanted, adapters, seed)
    ours, theirs = (torch.autograd.grad(form, halves, seed.bfloat16()) for form in (fast, plain))
    for one, other, true in zip((fast, *ours), (plain, *theirs), (wanted, *right), strict=True):
        off, usual = ((each.float() - true).norm() for each in (one, other))
        assert off <= 1.3 * usual, "no further from the truth than the plain formulas in the same number format"


def test_less_is_kept_for_the_backward_pass():
    inputs = torch.randn(1, 64, 32, requires_grad=True)
    parts = [projection(*size, rank=2) for size in ((96, 32), (96, 32), (32, 96))]

    def kept(form):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = form(inputs, *parts, "silu")
        del result
        return sum(sizes.values())

    assert kept(gated_mlp) < 0.75 * kept(gated_mlp_reference)


def saved_by(run):
    """Where the tensors lie that are kept for the backward pass."""
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda x: x
    )
    with hooks:
        result = run()
    return result, set(kept)


def layer(norms, parts, mlp, inputs, forms):
    """Two norms, three projections of the first and a gated MLP of the second."""
    norm, project, gated = forms
    first = norm(inputs, norms[0], 1e-6)
    seen = [first]
    middle = inputs + sum(project(first, part) for part in parts)
    second = norm(middle, norms[1], 1e-6, 1.0)
    return middle + gated(second, *mlp, "silu"), [*seen, second]


@pytest.mark.parametrize("trained", [False, True])
def test_what_a_norm_gave_is_made_again_and_not_kept(trained):
    torch.manual_seed(5)
    inputs = torch.randn(2, 7, 12, requires_grad=True)
    norms = [torch.randn(12).requires_grad_(trained) for _ in range(2)]
    parts = [projection(12, 12, rank=2, bias=True, trained=trained) for _ in range(3)]
    mlp = [projection(*size, rank=2, trained=trained) for size in ((20, 12), (20, 12), (12, 20))]
    leaves = [inputs, *norms, *(tensor for part in (*parts, *mlp) for tensor in part.tensors)]
    (fast, normed), kept = saved_by(lambda: layer(norms, parts, mlp, inputs, (rms_norm, linear, gated_mlp)))
    assert not kept & {tensor.data_ptr() for tensor in normed}
    forms = rms_norm_reference, linear_reference, gated_mlp_reference
    same(fast, layer(norms, parts, mlp, inputs, forms)[0], leaves, **NEAR)
    assert _last.normed is None


def test_a_norm_that_was_changed_since_is_kept_itself():
    torch.manual_seed(6)
    inputs, weight = torch.randn(5, 12, requires_grad=True), torch.randn(12)
    one = projection(8, 12, rank=2)

    def run(norm, project):
        normed = norm(inputs, weight, 1e-6)
        normed.mul_(2.0)
        return project(normed, one)

    same(run(rms_norm, linear), run(rms_norm_reference, linear_reference), [inputs, *one.tensors], **NEAR)


def test_norms_that_are_read_in_turns_are_not_taken_for_each_other():
    torch.manual_seed(7)
    inputs = [torch.randn(5, 12, requires_grad=True) for _ in range(2)]
    weight, parts = torch.randn(12), [projection(8, 12, rank=2) for _ in range(4)]

    def run(norm, project):
        normed = [norm(each, weight, 1e-6) for each in inputs]
        return sum(project(normed[place % 2], part) for place, part in enumerate(parts))

    leaves = [*inputs, *(tensor for part in parts for tensor in part.tensors)]
    same(run(rms_norm, linear), run(rms_norm_reference, linear_reference), leaves, **NEAR)
