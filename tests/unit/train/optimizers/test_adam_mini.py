"""Adam-mini against numbers worked out by hand, and against Adam where each block is one weight."""

import pytest
import torch
from torch import nn

from burnish.train.optimizers.adam_mini import COLUMNS, WHOLE, AdamMini


def stepped(weight, gradients, block, **options):
    parameter = nn.Parameter(weight.clone())
    optimizer = AdamMini([{"params": [parameter], "block": block}], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


def test_two_steps_by_hand():
    # One row [3, 4], lr 1, betas 0.5 and 0.75: the mean square is 12.5 in both steps, its bias is undone exactly.
    # m / bias is [3, 4] and then, with g = [-3, 4], (0.5 · [1.5, 2] + 0.5 · [-3, 4]) / 0.75 = [-1, 4].
    gradients = [torch.tensor([[3.0, 4.0]]), torch.tensor([[-3.0, 4.0]])]
    weight, state = stepped(torch.zeros(1, 2), gradients, 1, lr=1.0, betas=(0.5, 0.75), eps=0.0)
    root = 12.5**0.5
    torch.testing.assert_close(weight, torch.tensor([[-3.0 + 1.0, -4.0 - 4.0]]) / root)
    assert state["exp_avg_sq"].tolist() == pytest.approx([12.5 * (1 - 0.75**2)])
    assert state["step"] == 2


@pytest.mark.parametrize(
    ("block", "parts", "count"),
    [
        (1, lambda w: [w[0], w[1], w[2], w[3]], 4),  # output neurons
        (2, lambda w: [w[:2], w[2:]], 2),  # heads of two rows
        (COLUMNS, lambda w: [w[:, 0], w[:, 1], w[:, 2]], 3),  # output neurons of GPT-2's layers
        (WHOLE, lambda w: [w], 1),
    ],
)
def test_each_block_has_one_rate(block, parts, count):
    torch.manual_seed(0)
    gradient = torch.randn(4, 3)
    weight, state = stepped(torch.zeros(4, 3), [gradient], block, lr=1.0, eps=0.0)
    assert state["exp_avg_sq"].shape == (count,)
    for moved, pushed in zip(parts(weight), parts(gradient), strict=True):
        # After one step the bias corrections leave -g / sqrt(mean of g²), over the block.
        torch.testing.assert_close(moved, -pushed / pushed.square().mean().sqrt())


def test_rows_of_stacked_experts():
    torch.manual_seed(0)
    gradient = torch.randn(2, 4, 3)
    whole, state = stepped(torch.zeros(2, 4, 3), [gradient], 1, lr=1.0)
    assert state["exp_avg_sq"].shape == (8,)
    one, _ = stepped(torch.zeros(4, 3), [gradient[1]], 1, lr=1.0)
    torch.testing.assert_close(whole[1], one)


def test_blocks_of_one_weight_are_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 1), [torch.randn(5, 1) for _ in range(6)]
    options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
    ours, _ = stepped(start, gradients, 1, **options)
    theirs = nn.Parameter(start.clone())
    adamw = torch.optim.AdamW([theirs], **options)
    for gradient in gradients:
        theirs.grad = gradient
        adamw.step()
    torch.testing.assert_close(ours, theirs.detach())


def test_the_second_moment_is_float32_even_in_bfloat16():
    _, state = stepped(torch.ones(2, 2, dtype=torch.bfloat16), [torch.ones(2, 2, dtype=torch.bfloat16)], 1)
    assert state["exp_avg_sq"].dtype == torch.float32
    assert state["exp_avg"].dtype == torch.bfloat16
