"""AdamW with float32 copies: the same as torch's, and small updates are not lost."""

import copy

import torch
from torch import nn

from burnish.train.optimizer import MasterAdamW, build_optimizer


def quadratic(model, inputs):
    return model(inputs).float().pow(2).mean()


def test_float32_is_plain_adamw():
    torch.manual_seed(0)
    ours = nn.Linear(4, 3)
    theirs = copy.deepcopy(ours)
    mine = MasterAdamW([{"params": list(ours.parameters())}], lr=0.1, weight_decay=0.1)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.1)
    inputs = torch.randn(5, 4)
    for _ in range(5):
        for model, optimizer in ((ours, mine), (theirs, plain)):
            quadratic(model, inputs).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(ours.weight, theirs.weight)


def test_small_updates_add_up_in_bf16():
    # At 1.0 neighbouring bf16 numbers below lie 2^-8 apart; ten steps of 2^-10 vanish one by one without a copy.
    def after(masters):
        weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        optimizer = MasterAdamW([{"params": [weight]}], masters=masters, lr=2**-10, betas=(0.0, 0.0), weight_decay=0.0)
        for _ in range(10):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            optimizer.zero_grad()
        return weight.item()

    assert after(masters=False) == 1.0
    assert after(masters=True) == torch.tensor(1 - 10 * 2**-10).bfloat16().item() != 1.0


def test_state_survives_a_round_trip():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).bfloat16()
    inputs = torch.randn(5, 4).bfloat16()
    optimizer = build_optimizer(model, learning_rate=0.01)

    def step(m, o):
        quadratic(m, inputs).backward()
        o.step()
        o.zero_grad()

    for _ in range(3):
        step(model, optimizer)
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, learning_rate=0.01)
    other.load_tensors(optimizer.tensors())
    for _ in range(3):
        step(model, optimizer)
        step(twin, other)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


def test_weight_decay_spares_biases():
    model = nn.Linear(4, 3)
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.5)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.weight)] == 0.5
    assert decays[id(model.bias)] == 0.0
