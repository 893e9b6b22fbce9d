"""Lion against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from burnish.train.optimizers.lion import Lion


def test_two_steps_by_hand():
    # lr 0.1, betas 0.9 and 0.5, weight decay 0.5, w = 1.
    # Step 1, g = 2: c = 0.1 · 2 > 0; w = 1 · 0.95 - 0.1 = 0.85; m = 0.5 · 2 = 1.
    # Step 2, g = -3: c = 0.9 · 1 - 0.1 · 3 = 0.6 > 0, against the gradient; w = 0.85 · 0.95 - 0.1; m = 0.5 - 1.5.
    weight = nn.Parameter(torch.ones(1))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.5), weight_decay=0.5)
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    assert weight.item() == pytest.approx(0.85)
    assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(1.0)
    weight.grad = torch.tensor([-3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(0.7075)
    assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(-1.0)


def test_the_size_of_the_gradient_does_not_matter_and_zero_stays():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1e-6, -1e6, 0.0])
    Lion([weight], lr=0.25).step()
    assert weight.tolist() == [-0.25, 0.25, 0.0]
