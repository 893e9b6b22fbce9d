"""The kernels for single numbers equal PyTorch's formulas in float64, whatever the size and the number of threads."""

import pytest
import torch
import torch.nn.functional as F

from burnish.kernels import elementwise
from burnish.kernels.projections import ACTIVATIONS
from burnish.kernels.rms_norm import rms_norm_reference
from tests.machines import forgotten

from .conftest import can_compile

needs_compiler = pytest.mark.skipif(not can_compile(), reason="no compiler, or switched off")
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (3, 5), (1, 64), (70, 83), (2, 3, 576), (300, 130)]


def drawn(*shape, dtype, count=1, size=2.0):
    torch.manual_seed(sum(shape))
    made = [torch.randn(*shape).mul_(size).to(dtype) for _ in range(count)]
    return made if count > 1 else made[0]


def near(ours, right, dtype):
    """Within one rounding of bfloat16, or 1e-5 of float32."""
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-5, "rtol": 2**-8}
    torch.testing.assert_close(ours.double(), right.double(), **close)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_compiler
def test_they_pass_their_trial():
    assert elementwise.is_there()


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norms(dtype, shape, offset):
    inputs, slope = drawn(*shape, dtype=dtype, count=2)
    weight = drawn(shape[-1], dtype=dtype)
    out, inverse = elementwise.norm(inputs, weight, 1e-3, offset)
    assert out.dtype == dtype
    assert inverse.shape == (*shape[:-1], 1)
    assert torch.equal(elementwise.norm_again(inputs, inverse, weight, offset), out)
    wide, scale = inputs.double().requires_grad_(), weight.double().requires_grad_()
    plain = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3) * (offset + scale)
    near(out, plain, dtype)
    of_inputs, of_weight = torch.autograd.grad(plain, (wide, scale), slope.double())
    given = slope, inputs, weight, inverse, offset
    both = elementwise.norm_back(*given, for_inputs=True, for_weight=True)
    near(both[0], of_inputs, dtype)
    assert both[1].dtype == torch.float32
    torch.testing.assert_close(both[1].double(), of_weight, atol=1e-5, rtol=1e-4)
    for wanted in ({"for_inputs": True, "for_weight": False}, {"for_inputs": False, "for_weight": True}):
        for one, other, asked in zip(elementwise.norm_back(*given, **wanted), both, wanted.values(), strict=True):
            assert torch.equal(one, other) if asked else one is None


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates(dtype, shape, activation):
    gated, raised, slope = drawn(*shape, dtype=dtype, count=3)
    wide, up = gated.double().requires_grad_(), raised.double().requires_grad_()
    product = ACTIVATIONS[activation][0](wide) * up
    right = torch.autograd.grad(product, (up, wide), slope.double())
    out = elementwise.gate(gated, raised, activation)
    near(out, product, dtype)
    ours = elementwise.gate_back(slope, gated, raised, activation, want_product=True)
    assert ours[0] is slope
    for one, other in zip(ours, (*right, product), strict=True):
        near(one, other, dtype)


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_far_out(activation):
    far = torch.tensor([-1e4, -200.0, -90.0, -30.0, -9.0, -1e-4, 0.0, 1e-4, 9.0, 30.0, 90.0, 200.0, 1e4])
    one = torch.ones_like(far)
    wide = far.double().requires_grad_()
    plain = ACTIVATIONS[activation][0](wide)
    (right,) = torch.autograd.grad(plain.sum(), wide)
    near(elementwise.gate(far, one, activation), plain, torch.float32)
    near(elementwise.gate_back(one.clone(), far, one, activation, want_product=False)[1], right, torch.float32)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 7), (5, 64), (9, 4096), (4, 9001)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses(dtype, rows, size, smoothing):
    logits = drawn(rows, size, dtype=dtype, size=4.0)
    targets, factors = torch.randint(0, size, (rows,)), torch.rand(rows) - 0.3
    wide = logits.double().requires_grad_()
    right = F.cross_entropy(wide, targets, label_smoothing=smoothing, reduction="none")
    (slope,) = torch.autograd.grad(right, wide, factors.double())
    before = logits.clone()
    seen = elementwise.cross_entropy(logits, targets, factors, smoothing=smoothing, back=False)
    assert torch.equal(logits, before)
    assert seen.hits is None
    found = elementwise.cross_entropy(logits, targets, factors, smoothing=smoothing, back=True, want_hits=True)
    torch.testing.assert_close(found.losses.double(), right.detach(), atol=1e-5, rtol=1e-6)
    plain = wide.detach().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.logprobs.double(), plain, atol=1e-5, rtol=1e-6)
    assert torch.equal(found.hits, before.argmax(-1) == targets)
    for one, other in zip(found, seen, strict=True):
        assert one.dtype == torch.bool or torch.allclose(one, other, rtol=1e-6)
    near(logits, slope, dtype)


@needs_compiler
def test_only_the_first_of_the_largest_is_a_hit():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]] * 4)
    rows = elementwise.cross_entropy(logits, torch.arange(4), torch.ones(4), back=False, want_hits=True)
    assert rows.hits.tolist() == [False, True, False, False]


@needs_compiler
@pytest.mark.parametrize("place", [0, 3, 40])
def test_what_is_no_number_is_not_hidden(place):
    logits = torch.zeros(1, 50)
    logits[0, place] = torch.nan
    assert elementwise.cross_entropy(logits, torch.tensor([7]), torch.ones(1), back=True).losses.isnan().all()
    inputs = torch.ones(1, 50, dtype=torch.bfloat16)
    inputs[0, place] = torch.nan
    assert elementwise.norm(inputs, torch.ones(50, dtype=torch.bfloat16), 1e-6, 0.0)[0].isnan().all()
    assert elementwise.gate(inputs, torch.ones_like(inputs), "silu").isnan().sum() == 1


@needs_compiler
@pytest.mark.parametrize("target", [-100, -1, 9])
def test_a_target_outside_the_vocabulary_is_refused(target):
    with pytest.raises(IndexError, match="for 9 logits"):
        elementwise.cross_entropy(torch.zeros(2, 9), torch.tensor([3, target]), torch.ones(2), back=True)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_threads(dtype, threads):
    inputs, slope, raised = drawn(333, 577, dtype=dtype, count=3)
    weight, targets, factors = drawn(577, dtype=dtype), torch.randint(0, 577, (333,)), torch.rand(333)

    def results():
        out, inverse = elementwise.norm(inputs, weight, 1e-6, 0.0)
        back = elementwise.norm_back(slope, inputs, weight, inverse, 0.0, for_inputs=True, for_weight=True)
        gates = elementwise.gate_back(slope.clone(), inputs, raised, "silu", want_product=True)
        logits = inputs.clone()
        rows = elementwise.cross_entropy(logits, targets, factors, smoothing=0.1, back=True)
        return out, *back, *gates, elementwise.gate(inputs, raised, "gelu"), logits, rows.losses

    threads(1)
    alone = results()
    for count in (2, 3):
        threads(count)
        assert all(torch.equal(one, other) for one, other in zip(results(), alone, strict=True))


@needs_compiler
def test_in_bf16_it_is_nearer_to_the_truth_than_the_plain_formulas():
    torch.manual_seed(0)
    inputs, slope = torch.randn(50, 256), torch.randn(50, 256)
    weight = torch.rand(256)
    half = [each.bfloat16() for each in (inputs, weight, slope)]
    exact = rms_norm_reference(half[0].float(), half[1].float(), 1e-5)
    ours, _ = elementwise.norm(half[0], half[1], 1e-5, 0.0)
    assert (ours.float() - exact).norm() <= 1.01 * (rms_norm_reference(half[0], half[1], 1e-5).float() - exact).norm()
    plain = F.silu(half[0]) * half[2]
    exact = F.silu(half[0].float()) * half[2].float()
    assert (elementwise.gate(half[0], half[2], "silu").float() - exact).norm() < (plain.float() - exact).norm()


@needs_compiler
def test_what_they_take():
    one, weight = torch.zeros(4, 8), torch.zeros(8)
    assert elementwise.takes(one, weight)
    assert elementwise.takes(one.bfloat16(), torch.nn.Parameter(weight.bfloat16()))
    assert not elementwise.takes(one, weight.bfloat16())
    assert not elementwise.takes(one.half(), weight.half())
    assert not elementwise.takes(one.double(), weight.double())
    assert not elementwise.takes(one.T, weight)
    assert not elementwise.takes(torch.zeros(4, 8, device="meta"))

    class Other(torch.Tensor):
        pass

    assert not elementwise.takes(one, torch.zeros(8).as_subclass(Other))


@pytest.fixture
def tried_anew():
    with forgotten(elementwise.is_there):
        yield


def test_they_can_be_switched_off(tried_anew, monkeypatch):
    monkeypatch.setenv("BURNISH_ELEMENTWISE", "plain")
    assert not elementwise.is_there()
    assert not elementwise.takes(torch.zeros(4))


def test_without_a_compiler_they_are_not_there(tried_anew, monkeypatch):
    def refuses():
        raise elementwise.CannotCompile("no C compiler")

    monkeypatch.setattr(elementwise, "_compiled", refuses)
    assert not elementwise.is_there()


@needs_compiler
@pytest.mark.parametrize("name", ["norm_again", "gate", "cross_entropy"])
def test_a_kernel_that_gives_something_else_is_not_used(tried_anew, monkeypatch, name):
    own = getattr(elementwise, name)

    def wrong(*given, **options):
        found = own(*given, **options)
        first = found if isinstance(found, torch.Tensor) else found[0]
        first[..., -1] += 0.1
        return found

    monkeypatch.setattr(elementwise, name, wrong)
    assert not elementwise.is_there()
