"""RMSNorm equals what autograd makes of its formula."""

import pytest
import torch

from burnish.kernels.rms_norm import rms_norm, rms_norm_reference

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 5, 96), (3, 7, 4, 64), (1, 8)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("trained", [False, True])
def test_equals_reference(shape, offset, trained):
    torch.manual_seed(0)
    inputs = torch.randn(*shape, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(shape[-1], requires_grad=trained)
    leaves = [inputs, weight] if trained else [inputs]
    fast, plain = (norm(inputs, weight, 1e-5, offset) for norm in (rms_norm, rms_norm_reference))
    torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-5)
    seed = torch.randn_like(fast)
    ours, theirs = (torch.autograd.grad(result, leaves, seed) for result in (fast, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_rows_of_zeros_have_finite_slopes():
    inputs = torch.zeros(1, 3, 8, requires_grad=True)
    weight = torch.ones(8)
    slopes = [
        torch.autograd.grad(norm(inputs, weight, 1e-6, 0.0), inputs, torch.ones(1, 3, 8))[0]
        for norm in (rms_norm, rms_norm_reference)
    ]
    torch.testing.assert_close(*slopes)
    assert slopes[0].isfinite().all()


def test_16_bits_are_computed_in_32():
    torch.manual_seed(1)
    inputs = torch.randn(2, 9, 64, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(64, dtype=torch.bfloat16)
    fast, plain = (norm(inputs, weight, 1e-5, 0.0) for norm in (rms_norm, rms_norm_reference))
    assert fast.dtype == torch.bfloat16
    torch.testing.assert_close(fast, plain, atol=0, rtol=2**-7)
    seed = torch.randn_like(fast)
    (one,), (other,) = (torch.autograd.grad(result, inputs, seed) for result in (fast, plain))
    torch.testing.assert_close(one, other, atol=2e-2, rtol=2**-6)
