"""What must hold whatever the settings: how a batch is cut, packed, stopped or saved does not change the run."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal

import pytest
import torch

from burnish.api import load, train
from burnish.batch.collate import collate_packed, collate_padded
from burnish.batch.plan import BatchPlan
from burnish.errors import Interrupted
from burnish.kernels.attention import packed_rows
from burnish.model.adapter import attach_lora
from burnish.runs.monitor import FIGURES
from burnish.template import Example
from burnish.train.forward import SupervisedLoss
from tests.conftest import build_model
from tests.runs import settings, weights


def examples(count, seed=0):
    """Examples of very unequal length, some with long answers and some with one trained token."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        length = 2 + (number * 7) % 23
        ids = torch.randint(3, 259, (length,), generator=random).tolist()
        trained = 1 + (number * 3) % (length - 1)
        made.append(Example(ids, [-100] * (length - trained) + ids[-trained:]))
    return made


def rows(log):
    return [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]


# -- packing ----------------------------------------------------------------------------------------------------


def test_packed_equals_padded_equals_one_by_one():
    model = build_model().double()
    made = examples(6)
    with torch.no_grad(), packed_rows(model):
        packed = SupervisedLoss(model, packed=True)(collate_packed(made))
        single = [SupervisedLoss(model, packed=True)(collate_packed([one])).total for one in made]
    with torch.no_grad():
        padded = SupervisedLoss(model, packed=False)(collate_padded(made))
    torch.testing.assert_close(packed.total, padded.total, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(packed.total, sum(single), atol=1e-4, rtol=1e-6)
    assert packed.count == padded.count == sum(example.supervised for example in made)


def test_changing_one_document_leaves_the_others_alone():
    model = build_model()
    first, second, changed = *examples(2, seed=1), examples(1, seed=9)[0]
    with torch.no_grad(), packed_rows(model):

        def hidden(*documents):
            batch = collate_packed(list(documents))
            return model.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                document_lengths=batch.document_lengths,
                use_cache=False,
            ).last_hidden_state[0]

        length = len(second.input_ids)
        before, after = hidden(first, second)[-length:], hidden(changed, second)[-length:]
        alone = hidden(second)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(before, alone, atol=1e-6, rtol=1e-6)


# -- accumulation -------------------------------------------------------------------------------------------------


def gradients(batch_rows, accumulation):
    """Gradients of the first step, by the loop itself, at one global batch of 8."""
    from burnish.train.engine import build_accelerator
    from burnish.train.loop import Hooks, Loop, LoopOptions
    from burnish.train.optimizers import OptimizerOptions, build_optimizer
    from burnish.train.state import Progress

    made = examples(8)
    model = build_model()
    optimizer = build_optimizer(model, OptimizerOptions(learning_rate=0.0))
    accelerator = build_accelerator(torch.device("cpu"), "no")
    kept = {}
    loop = Loop(
        accelerator,
        SupervisedLoss(model, packed=True),
        optimizer,
        optimizer,
        BatchPlan([[n] for n in range(8)], batch_rows, accumulation, seed=1),
        lambda numbers: collate_packed([made[n] for n in numbers], numbers),
        lambda _: 0.0,
        LoopOptions(total_steps=1, max_grad_norm=0.0),
        Hooks(),
        Progress(),
    )
    optimizer.zero_grad = lambda *_: kept.update({n: p.grad.clone() for n, p in model.named_parameters()})
    with packed_rows(model):
        figures = loop.step()
    return kept, figures["loss"]


@pytest.mark.parametrize(("batch_rows", "accumulation"), [(1, 8), (2, 4), (4, 2)])
def test_how_a_batch_is_cut_does_not_change_the_gradient(batch_rows, accumulation):
    whole, loss = gradients(8, 1)
    cut, cut_loss = gradients(batch_rows, accumulation)
    assert cut_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-5, rtol=1e-5)


# -- adapters -----------------------------------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing():
    model = build_model()
    ids = torch.randint(3, 259, (1, 12))
    before = model(ids).logits
    tuned, targets = attach_lora(model, rank=4)
    torch.testing.assert_close(tuned(ids).logits, before)
    assert targets == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_base_stays_bit_identical_and_the_adapter_reloads_alike(tiny_folder, chat_file, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    train(settings(tiny_folder, chat_file, tmp_path / "run"))
    ids = torch.randint(3, 259, (1, 12))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    untouched = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for name, tensor in weights(tiny_folder).items():
        assert torch.equal(untouched[name], tensor)
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "run").eval()(ids).logits
        ours = load(str(tmp_path / "run"), use_cpu=True).model(ids).logits  # merged in memory
    assert not torch.allclose(adapted, plain, atol=1e-3)
    torch.testing.assert_close(ours, adapted, atol=1e-4, rtol=1e-4)


def test_full_training_saves_a_plain_model(tiny_folder, chat_file, tmp_path):
    from transformers import AutoModelForCausalLM

    record = train(settings(tiny_folder, chat_file, tmp_path / "run", finetuning_type="full", learning_rate=1e-2))
    assert record["model"]["trainable"] == record["model"]["parameters"]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(again.state_dict()[name], tensor)
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.5


# -- resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.1},
        {"finetuning_type": "full", "learning_rate": 1e-3},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "learning_rate": 1e-3},
        {"lora_init": "pissa", "use_dora": True, "lora_dropout": 0.1},
        {"additional_target": "embed_tokens", "use_rslora": True, "lora_target": r".*\.1\..*(q|v)_proj"},
        {"neftune_noise_alpha": 5, "add_tokens": "number,please"},
        {"packing": True, "cutoff_len": 80, "num_train_epochs": 3},
        {"gradient_accumulation_steps": 2, "val_size": 2, "eval_strategy": "steps", "eval_steps": 2},
        {"streaming": True, "max_steps": 13, "buffer_size": 5},
        {"streaming": True, "max_steps": 7, "buffer_size": 7, "packing": True, "cutoff_len": 80, "val_size": 2},
        {"quantization_bit": 4, "val_size": 2, "eval_strategy": "steps", "eval_steps": 2},
        {"quantization_bit": 8, "val_size": 2, "eval_strategy": "steps", "eval_steps": 2},
    ],
    ids=[
        "lora-dropout",
        "full",
        "freeze",
        "pissa",
        "whole-regex",
        "noise-tokens",
        "packed",
        "accumulation-eval",
        "streamed",
        "streamed-packed",
        "4-bit",
        "8-bit",
    ],
)
def test_resumed_twice_equals_uninterrupted(tiny_folder, chat_file, tmp_path, changes):
    common = {**changes, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    train(settings(tiny_folder, chat_file, tmp_path / "whole", **common))
    interrupted(tiny_folder, chat_file, tmp_path / "parts", 2, **common)  # goes on from its own checkpoint-2
    interrupted(tiny_folder, chat_file, tmp_path / "parts", 4, **common)
    shutil.rmtree(tmp_path / "parts" / "checkpoint-4")  # as after a crash: from 3, between two logged rows
    train(settings(tiny_folder, chat_file, tmp_path / "parts", **common, resume_from_checkpoint=True))
    check_same_run(tmp_path / "parts", tmp_path / "whole")


def check_same_run(parts, whole):
    """Two runs logged the same and left the same weights, bit for bit."""
    ours, theirs = weights(parts), weights(whole)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    assert untimed(rows(parts)) == untimed(rows(whole))


def untimed(found):
    """Rows of metrics without what a clock or the system decides."""
    timed = ("tokens_per_second", "elapsed_s", "eval_runtime_s", *FIGURES, "rss_mb")
    return [{key: value for key, value in row.items() if key not in timed} for row in found]


def interrupted(model, data, output, stop, **changes):
    """Train until `stop` steps were logged, then ask for a stop as a signal would."""

    def callback(row):
        if row["step"] >= stop:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        train(settings(model, data, output, **changes, resume_from_checkpoint=True), callbacks=[callback])
    assert caught.value.checkpoint.endswith(f"checkpoint-{stop}")
    assert json.loads((output / "run.json").read_text())["status"] == "interrupted"


def test_a_torn_checkpoint_is_skipped(tiny_folder, chat_file, tmp_path):
    common = {"save_strategy": "steps", "save_steps": 2}
    train(settings(tiny_folder, chat_file, tmp_path / "whole", **common))
    train(settings(tiny_folder, chat_file, tmp_path / "torn", **common))
    newest = max((tmp_path / "torn").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (newest / "adapter_model.safetensors").write_bytes(b"half")
    summary = json.loads((tmp_path / "torn" / "run.json").read_text())
    (tmp_path / "torn" / "run.json").write_text(json.dumps({**summary, "status": "failed"}))
    train(settings(tiny_folder, chat_file, tmp_path / "torn", **common, resume_from_checkpoint=True))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "torn")[name], tensor)
    assert [row["step"] for row in rows(tmp_path / "torn")] == [row["step"] for row in rows(tmp_path / "whole")]


# -- the numbers --------------------------------------------------------------------------------------------------


def test_the_first_loss_of_a_fresh_model_is_near_ln_v(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", learning_rate=0.0, max_steps=1))
    # A randomly initialised model knows nothing: about ln 259 = 5.557 nats a token.
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(259), abs=0.15)


def test_a_memorised_batch_is_learnt(tiny_folder, chat_file, tmp_path):
    full = {"finetuning_type": "full", "learning_rate": 1e-2}
    record = train(settings(tiny_folder, chat_file, tmp_path / "run", num_train_epochs=30, **full))
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert losses[-1] < 1.5 < 5 < losses[0]
    assert record["train"]["steps"] == 180
    assert record["data"]["rows_used"] == 12


def test_gradient_checkpointing_changes_nothing(tiny_folder, chat_file, tmp_path):
    for name, on in (("plain", False), ("checkpointed", True)):
        train(settings(tiny_folder, chat_file, tmp_path / name, gradient_checkpointing=on, max_steps=3))
    plain, checkpointed = weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_heads_weight_is_asked_for_when_the_layers_are_done(monkeypatch):
    """ZeRO 3 takes a tied weight away when the embeddings are done: asked for before, it would be empty."""
    from burnish.train import forward

    order = []
    for name in ("last_hidden", "head_weight"):
        real = getattr(forward, name)

        def told(*given, real=real, name=name, **more):
            order.append(name)
            return real(*given, **more)

        monkeypatch.setattr(forward, name, told)
    model = build_model()
    with packed_rows(model):
        SupervisedLoss(model, packed=True)(collate_packed(examples(2)))
    assert order == ["last_hidden", "head_weight"]
