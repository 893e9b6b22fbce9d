"""The best checkpoint, early stopping, callbacks, own losses, losses by dataset, and rows that are not numbers."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.api import train
from burnish.batch.collate import collate_packed
from burnish.batch.plan import BatchPlan
from burnish.errors import BurnishError
from burnish.kernels.attention import packed_rows
from burnish.train.callbacks import Callback
from burnish.train.forward import SupervisedLoss
from tests.conftest import build_model
from tests.invariant.test_training import examples, interrupted, rows, untimed
from tests.runs import settings, weights

EVALUATED = {"val_size": 3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 50}


def write_chats(path, pairs):
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
        for asked, told in pairs
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# -- the best one -------------------------------------------------------------------------------------------------


def test_the_best_weights_are_the_ones_that_stay(tiny_folder, chat_file, tmp_path):
    spoiling = {"learning_rate": 0.05, "num_train_epochs": 6, "max_grad_norm": 0.0, "finetuning_type": "full"}
    record = train(
        settings(
            *(tiny_folder, chat_file, tmp_path / "run"),
            **{**EVALUATED, **spoiling, "load_best_model_at_end": True, "save_total_limit": 1},
        )
    )
    found = {row["step"]: row["eval_loss"] for row in rows(tmp_path / "run")}
    best = min(found, key=found.get)
    assert best != max(found), "the run must get worse at its end for this test to tell anything"
    assert record["train"]["best"] == {"metric": "eval_loss", "value": found[best], "step": best}
    kept = load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors")
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(tensor, kept[name]), name
    again = train(
        settings(
            *(tmp_path / "run", chat_file, tmp_path / "again"),
            **{**EVALUATED, "finetuning_type": "full", "do_train": False, "do_eval": True, "eval_strategy": "no"},
        )
    )
    assert again["train"]["eval_loss"] == pytest.approx(found[best], rel=1e-5)


def test_save_strategy_best_saves_only_better_ones(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", **{**EVALUATED, "save_strategy": "best"}))
    lowest, expected = math.inf, set()
    for row in rows(tmp_path / "run"):
        if row["eval_loss"] < lowest:
            lowest = row["eval_loss"]
            expected.add(f"checkpoint-{row['step']}")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == expected


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_folder, chat_file, tmp_path):
    still = {"learning_rate": 0.0, "early_stopping_steps": 2, "num_train_epochs": 20}
    record = train(settings(tiny_folder, chat_file, tmp_path / "run", **{**EVALUATED, **still}))
    # The first evaluation is the best one; the second and third are not better.
    assert record["status"] == "completed"
    assert record["train"]["steps"] == 3
    assert "has not improved in 2 evaluations" in record["train"]["ended"]


def test_resuming_keeps_the_best_and_the_patience(tiny_folder, chat_file, tmp_path):
    common = {**EVALUATED, "early_stopping_steps": 4, "learning_rate": 0.03, "num_train_epochs": 4}
    common |= {"compute_accuracy": True, "logging_steps": 3, "eval_steps": 2}
    whole = train(settings(tiny_folder, chat_file, tmp_path / "whole", **common))
    interrupted(tiny_folder, chat_file, tmp_path / "parts", 4, **common)
    parts = train(settings(tiny_folder, chat_file, tmp_path / "parts", **common, resume_from_checkpoint=True))
    assert untimed(rows(tmp_path / "parts")) == untimed(rows(tmp_path / "whole"))
    assert parts["train"]["best"] == whole["train"]["best"]
    assert 0 < rows(tmp_path / "whole")[-1]["accuracy"] <= 1


def test_evaluation_on_start_after_a_delay_and_at_the_end(tiny_folder, chat_file, tmp_path):
    asked = {"eval_steps": 2, "eval_delay": 3, "eval_on_start": True, "max_steps": 7, "logging_first_step": True}
    train(settings(tiny_folder, chat_file, tmp_path / "run", **{**EVALUATED, **asked, "logging_steps": 50}))
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [0, 1, 4, 6, 7]
    assert ["eval_loss" in row for row in found] == [True, False, True, True, True]
    assert "loss" not in found[0]


# -- callbacks ------------------------------------------------------------------------------------------------------


class Watcher(Callback):
    def __init__(self):
        self.seen = []

    def on_start(self, run):
        self.seen.append(("start", run.step, run.total_steps))

    def on_step(self, run):
        if run.step == 2:
            run.save()
            run.evaluate()
        if run.step == 3:
            assert math.isfinite(run.loss)
            assert run.model.training
            run.stop("enough for a test")

    def on_evaluate(self, run, results):
        self.seen.append(("evaluate", run.step, sorted(results)))

    def on_save(self, run, checkpoint):
        self.seen.append(("save", run.step, checkpoint.name))

    def on_end(self, run):
        self.seen.append(("end", run.step))


def test_callbacks_see_the_run_and_steer_it(tiny_folder, chat_file, tmp_path):
    watcher, heard = Watcher(), []
    record = train(
        settings(tiny_folder, chat_file, tmp_path / "run", val_size=2, do_eval=False),
        callbacks=[watcher, heard.append],
    )
    assert watcher.seen == [
        ("start", 0, 10),
        ("evaluate", 2, ["eval_loss"]),
        ("save", 2, "checkpoint-2"),
        ("end", 3),
    ]
    assert [row["step"] for row in heard] == [1, 2, 3]
    assert record["train"]["ended"] == "enough for a test"
    assert record["status"] == "completed"


def test_callbacks_from_a_settings_file(tiny_folder, chat_file, tmp_path):
    (tmp_path / "mine.py").write_text("def boast(row):\n    raise RuntimeError('no ' + str(row['step']))\n")
    with pytest.raises(BurnishError, match=r"boast failed: RuntimeError: no 1[\s\S]*mine.py"):
        train(settings(tiny_folder, chat_file, tmp_path / "run", callbacks=[f"{tmp_path}/mine.py:boast"]))


# -- losses ---------------------------------------------------------------------------------------------------------


def test_an_own_loss_equal_to_ours_trains_the_same(tiny_folder, chat_file, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef plain(logits, labels, weights):\n"
        "    nats = torch.nn.functional.cross_entropy(logits, labels, reduction='none')\n"
        "    return (nats * weights).sum(), weights.sum()\n"
    )
    common = {"gradient_accumulation_steps": 2, "max_steps": 3}
    train(settings(tiny_folder, chat_file, tmp_path / "ours", **common))
    train(settings(tiny_folder, chat_file, tmp_path / "own", **common, loss_function=f"{tmp_path}/mine.py:plain"))
    ours, own = weights(tmp_path / "ours"), weights(tmp_path / "own")
    for name, tensor in ours.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return logits.sum()", "must return a sum and a count"),
        ("return logits, weights", "must return a sum and a count"),
        ("return logits.sum().item(), 3.0", "does not depend on the logits"),
        ("return logits.nonsense(), 1", "AttributeError"),
    ],
)
def test_an_own_loss_that_cannot_be_used(tiny_folder, chat_file, tmp_path, body, what):
    (tmp_path / "mine.py").write_text(f"def loss(logits, labels, weights):\n    {body}\n")
    with pytest.raises(BurnishError, match=what) as caught:
        train(settings(tiny_folder, chat_file, tmp_path / "run", loss_function=f"{tmp_path}/mine.py:loss"))
    assert caught.value.at == "loss_function"


def test_smoothing_is_for_training_only():
    model, batch = build_model(), collate_packed(examples(4))
    module = SupervisedLoss(model, packed=True, smoothing=0.2)
    with torch.no_grad(), packed_rows(model):
        smoothed, plain = module.train()(batch).total, SupervisedLoss(model, packed=True)(batch).total
        assert module.eval()(batch).total == pytest.approx(plain.item())
    assert smoothed.item() != pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("streamed", [{}, {"streaming": True, "max_steps": 1}], ids=["map", "streamed"])
def test_each_dataset_has_a_loss_of_its_own(tiny_folder, tmp_path, streamed):
    first = write_chats(tmp_path / "greetings.jsonl", [(f"Hello {n}", "a b c") for n in range(4)])
    other = write_chats(tmp_path / "sums.jsonl", [(f"What is {n} + 1?", str(n + 1) * 6) for n in range(4)])
    common = {"learning_rate": 0.0, "per_device_train_batch_size": 8, "num_train_epochs": 1, "compute_accuracy": True}
    config = settings(tiny_folder, first, tmp_path / "both", **common)
    train({**config, "dataset": [str(first), str(other)], **streamed})
    [row] = rows(tmp_path / "both")
    alone = {}
    for name, file in (("greetings", first), ("sums", other)):
        train(settings(tiny_folder, file, tmp_path / name, **common))
        [alone[name]] = rows(tmp_path / name)
        assert row[f"loss_{name}"] == pytest.approx(alone[name]["loss"], rel=1e-5)
        assert f"loss_{name}" not in alone[name]
    tokens = {name: one["supervised_tokens"] for name, one in alone.items()}
    assert sum(tokens.values()) == row["supervised_tokens"]
    mixed = sum(row[f"loss_{name}"] * tokens[name] for name in tokens) / sum(tokens.values())
    assert row["loss"] == pytest.approx(mixed, rel=1e-5)


# -- rows that are not numbers ----------------------------------------------------------------------------------------


def test_the_row_whose_loss_is_not_a_number_is_named_and_saved(tmp_path, tiny_folder):
    # The embedding of the letter z is not a number, and one row of eight has a z: only that row can be to blame.
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    model = AutoModelForCausalLM.from_pretrained(broken, dtype=torch.float32)
    [letter] = AutoTokenizer.from_pretrained(broken).encode("z", add_special_tokens=False)
    untied = model.get_input_embeddings().weight.data.clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(untied.clone())
    model.get_input_embeddings().weight.data[letter] = math.nan
    model.save_pretrained(broken)
    file = write_chats(tmp_path / "chats.jsonl", [("say z" if n == 5 else "say a", f"{n}") for n in range(8)])
    run = settings(broken, file, tmp_path / "run", per_device_train_batch_size=4, gradient_accumulation_steps=2)
    with pytest.raises(BurnishError, match="the loss became nan at step 1") as caught:
        train(run)
    assert "row 5" in caught.value.at
    [line] = (tmp_path / "run" / "nonfinite_rows.jsonl").read_text(encoding="utf-8").splitlines()
    saved = json.loads(line)
    assert saved["row"] == 5
    assert "say z" in saved["text"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


# -- rows of like length --------------------------------------------------------------------------------------------


def test_steps_of_like_length_cover_every_row_once():
    lengths = [1 + (number * 37) % 101 for number in range(403)]
    plain = BatchPlan([[n] for n in range(403)], 4, 2, seed=3)
    grouped = BatchPlan([[n] for n in range(403)], 4, 2, seed=3, lengths=lengths)
    order = grouped.order(0)
    assert sorted(order) == list(range(403))
    assert order == grouped.order(0) != grouped.order(1)
    assert lengths[order[0]] == max(lengths)

    def spread(plan):
        steps = [[lengths[n] for part in plan.step(step) for n in part] for step in range(plan.steps_an_epoch)]
        return sum(max(step) - min(step) for step in steps) / len(steps)

    assert spread(grouped) < spread(plain) / 5


def test_a_last_step_that_is_not_full_can_be_left_out():
    kept = BatchPlan([[n] for n in range(11)], 2, 2, shuffle=False)
    left = BatchPlan([[n] for n in range(11)], 2, 2, shuffle=False, drop_last=True)
    assert (kept.steps_an_epoch, left.steps_an_epoch) == (3, 2)
    assert left.step(2) == left.step(0) == [[0, 1], [2, 3]]
    assert BatchPlan([[0]], 2, 2, drop_last=True).step(0) == [[0]], "a set smaller than a step is still trained on"


def test_steps_as_shares_of_the_run(tiny_folder, chat_file, tmp_path):
    shares = {"logging_steps": 0.25, "save_steps": 0.5, "eval_steps": 0.3, "val_size": 2, "eval_strategy": "steps"}
    train(settings(tiny_folder, chat_file, tmp_path / "run", **shares, save_strategy="steps"))
    found = rows(tmp_path / "run")
    # Ten rows in steps of two, twice: 10 steps. A quarter is 2.5, rounded up to 3; 0.3 is 3 as well.
    assert [row["step"] for row in found] == [3, 6, 9, 10]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]


def test_a_row_for_each_epoch(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", logging_strategy="epoch"))
    assert [(row["step"], row["epoch"]) for row in rows(tmp_path / "run")] == [(6, 1.0), (12, 2.0)]
