"""The whole way of a pair, from the model to the gradient, against TRL's trainer on the very same tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from burnish.batch.collate import Layout
from burnish.batch.pairs import collate_pairs
from burnish.kernels.attention import packed_rows
from burnish.template import Example
from burnish.train.preference import PairLoss
from burnish.train.reference import start_reference
from tests.conftest import build_model, build_tokenizer

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


def policy_of(model):
    """Another model than its start."""
    moved = copy.deepcopy(model)
    torch.manual_seed(5)
    for parameter in moved.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return moved


def by_trl(policy, reference, folder, loss):
    rows = [
        {"prompt": f"Say {n} {'please ' * (n % 3)}", "chosen": f"{n} " * (1 + n), "rejected": "no " * (1 + n % 2)}
        for n in range(4)
    ]
    options = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    trainer = trl.DPOTrainer(
        policy,
        reference,
        args=trl.DPOConfig(str(folder), beta=0.3, loss_type=loss, per_device_train_batch_size=4, **options),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    value = trainer.compute_loss(policy, inputs)
    value.backward()
    return value.item(), inputs


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_loss_and_gradient_equal_trls(tmp_path, loss):
    start = build_model()
    theirs, ours = policy_of(start), policy_of(start)
    value, inputs = by_trl(theirs, copy.deepcopy(start), tmp_path, loss)
    examples = []
    for number in range(4):
        for row in (number, 4 + number):
            real = inputs["attention_mask"][row].bool()
            ids = inputs["input_ids"][row][real].tolist()
            trained = inputs["completion_mask"][row][real].tolist()
            examples.append(Example(ids, [token if yes else -100 for token, yes in zip(ids, trained, strict=True)]))
    module = PairLoss(ours, packed=True, reference=start_reference(start), pref_loss=loss, beta=0.3)
    with packed_rows(ours):
        found = module(collate_pairs(examples, range(8), Layout(True)))
        (found.total / found.count).backward()
    assert found.count == 4
    assert (found.total / found.count).item() == pytest.approx(value, rel=1e-5)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4)
