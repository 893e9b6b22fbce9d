"""Each optimizer, through our wrapper, is its reference implementation step for step."""

import copy

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from burnish.train.optimizers.adam_mini import AdamMini
from burnish.train.optimizers.lion import Lion
from tests.unit.train.optimizers.toy import EXTRAS, NAMES, optimizer_of, run, same, toy

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}


def groups(*matrices, vectors=()):
    return [{"params": list(matrices), "weight_decay": 0.1}, {"params": list(vectors), "weight_decay": 0.0}]


def references(model, name):
    """The optimizers that a user of each library would write for this model, weight decay on matrices alone."""
    vectors = [model.q_proj.bias, model.norm.weight]
    tables = [model.embed.weight, model.lm_head.weight]
    hidden = [model.q_proj.weight]
    every = groups(*tables, *hidden, vectors=vectors)
    rest = groups(*tables, vectors=vectors)
    extras = EXTRAS.get(name, {})
    fused = {**ADAM, "fused": True}
    return {
        "adamw_torch": lambda: [torch.optim.AdamW(every, **ADAM)],
        "adamw_torch_fused": lambda: [torch.optim.AdamW(every, **fused)],
        "adamw_8bit": lambda: [
            bitsandbytes.optim.AdamW8bit(groups(*hidden, vectors=vectors), **ADAM),
            torch.optim.AdamW(tables, weight_decay=0.1, **fused),
        ],
        "paged_adamw_32bit": lambda: [bitsandbytes.optim.AdamW32bit(every, **ADAM)],
        "adam_mini": lambda: [AdamMini([{**g, "block": b} for g, b in zip(every, (1, 0), strict=True)], **ADAM)],
        "adafactor": lambda: [Adafactor(every, scale_parameter=False, relative_step=False, **extras)],
        "muon": lambda: [
            torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, **fused),
        ],
        "lion": lambda: [Lion(every, betas=(0.9, 0.999))],
        "lion_8bit": lambda: [
            bitsandbytes.optim.Lion8bit(groups(*hidden, vectors=vectors), betas=(0.9, 0.999)),
            Lion(tables, betas=(0.9, 0.999), weight_decay=0.1),
        ],
        "paged_lion_32bit": lambda: [bitsandbytes.optim.Lion32bit(every, betas=(0.9, 0.999))],
        "sgd": lambda: [torch.optim.SGD(every, **extras)],
        "adagrad": lambda: [torch.optim.Adagrad(every)],
        "rmsprop": lambda: [torch.optim.RMSprop(every, **extras)],
    }[name]()


class Together(torch.optim.Optimizer):
    """Several optimizers that step together."""

    def __init__(self, parts):
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def step(self, closure=None):
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none=True):
        for part in self.parts:
            part.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_is_its_reference(name):
    ours = toy()
    theirs = copy.deepcopy(ours)
    run(ours, optimizer_of(ours, name), range(6))
    run(theirs, Together(references(theirs, name)), range(6))
    assert not same(ours, toy())
    assert same(ours, theirs)


def test_fused_adamw_is_adamw_within_rounding():
    plain, fused = toy(), toy()
    run(plain, optimizer_of(plain, "adamw_torch"), range(20))
    run(fused, optimizer_of(fused, "adamw_torch_fused"), range(20))
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ours", "theirs", "near"),
    [
        ("lion", "paged_lion_32bit", 1e-6),
        ("adamw_torch", "paged_adamw_32bit", 1e-6),
        ("adamw_torch", "adamw_8bit", 2e-3),
    ],
)
def test_optimizers_that_are_one_another(ours, theirs, near):
    one, other = toy(), toy()
    run(one, optimizer_of(one, ours), range(6))
    run(other, optimizer_of(other, theirs), range(6))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=near)


@pytest.mark.parametrize("name", NAMES)
def test_falls_on_a_quadratic(name):
    torch.manual_seed(0)
    model = nn.Linear(WIDE := 64, 64, bias=False)
    goal = torch.randn(64, WIDE)
    optimizer = optimizer_of(model, name, learning_rate=0.05, weight_decay=0.0)
    losses = []
    for _ in range(60):
        loss = (model.weight - goal).square().mean()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 20.0 if name == "sgd" else 0.05
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
