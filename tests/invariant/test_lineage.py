"""A run is found again as it was trained: across precisions, stacked adapters, moved templates and stops."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch

from burnish.api import load, predict, train
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError, Interrupted, ModelError, RunFolderError
from tests.conftest import build_model, build_tokenizer
from tests.runs import settings, weights

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def logits(run):
    with torch.no_grad():
        return load(str(run), use_cpu=True).model(IDS).logits


def stop_after(step):
    def callback(row):
        if row["step"] >= step:
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


@pytest.mark.parametrize(("first", "then"), [({}, {"pure_bf16": True}), ({"pure_bf16": True}, {})])
def test_resuming_in_another_precision_keeps_what_was_learnt(tiny_folder, chat_file, tmp_path, first, then):
    common = {"finetuning_type": "full", "learning_rate": 1e-2, "num_train_epochs": 10}
    with pytest.raises(Interrupted):
        train(settings(tiny_folder, chat_file, tmp_path / "run", **common, **first), callbacks=[stop_after(40)])
    learnt = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train(
        settings(tiny_folder, chat_file, tmp_path / "run", **common, **then, max_steps=44, resume_from_checkpoint=True)
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 44
    fresh, before, after = learnt[0], sum(learnt[-4:]) / 4, sum(row["loss"] for row in rows[-4:]) / 4
    assert before < fresh - 1
    assert abs(after - before) < 0.5 * (fresh - before)


def test_a_new_adapter_on_a_merged_one_is_found_whole(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "first", learning_rate=2e-2))
    again = {"adapter_name_or_path": str(tmp_path / "first"), "create_new_adapter": True}
    train(settings(tiny_folder, chat_file, tmp_path / "second", learning_rate=0.0, max_steps=1, **again))
    # The second adapter learnt nothing, so base + first + second is base + first, and not the base.
    torch.testing.assert_close(logits(tmp_path / "second"), logits(tmp_path / "first"))
    assert not torch.allclose(logits(tmp_path / "second"), logits(tiny_folder), atol=1e-4)
    train(settings(tmp_path / "second", chat_file, tmp_path / "third", learning_rate=0.0, max_steps=1))
    torch.testing.assert_close(logits(tmp_path / "third"), logits(tmp_path / "first"))
    # It brings what is below it also where it is put on the base by name, in chat as in training.
    on_base = load(str(tiny_folder), adapters=[str(tmp_path / "second")], use_cpu=True)
    torch.testing.assert_close(on_base.model(IDS).logits, logits(tmp_path / "first"))
    again = {"adapter_name_or_path": str(tmp_path / "second")}
    train(settings(tiny_folder, chat_file, tmp_path / "fourth", learning_rate=0.0, max_steps=1, **again))
    torch.testing.assert_close(logits(tmp_path / "fourth"), logits(tmp_path / "first"))


def test_a_stacked_run_chats_as_it_predicts(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "first", learning_rate=2e-2))
    again = {"adapter_name_or_path": str(tmp_path / "first"), "create_new_adapter": True}
    train(settings(tiny_folder, chat_file, tmp_path / "second", learning_rate=1e-2, max_steps=1, seed=7, **again))
    greedy = {"do_sample": False, "max_new_tokens": 8, "use_cpu": True}
    questions = [json.loads(line)["messages"][0]["content"] for line in chat_file.read_text().splitlines()]
    on_base = load(str(tiny_folder), adapters=[str(tmp_path / "second")], use_cpu=True)
    answers = [on_base.answer([Turn("user", each)], max_new_tokens=8) for each in questions]
    asked = {"model_name_or_path": str(tmp_path / "second"), "eval_dataset": str(chat_file)}
    predict({**asked, **greedy, "output_dir": str(tmp_path / "out")})
    rows = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(row)["prediction"] for row in rows] == answers


def test_an_adapter_brings_its_template(tiny_folder, chat_file, tmp_path):
    written = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    (tmp_path / "mine.jinja").write_text(written + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    train(settings(tiny_folder, chat_file, tmp_path / "run", template=str(tmp_path / "mine.jinja"), max_steps=1))

    def prompt():
        chat = load(str(tiny_folder), adapters=[str(tmp_path / "run")], use_cpu=True)
        return chat.template.text(Conversation((Turn("user", "Hi"),)), generate=True)

    assert prompt() == "user: Hi<|im_end|>assistant: "
    for file in (tmp_path / "run").glob("tokenizer*"):
        file.unlink()
    (tmp_path / "run" / "chat_template.jinja").unlink(missing_ok=True)
    assert prompt() == "user: Hi<|im_end|>assistant: ", "the run remembers the name of its template"
    (tmp_path / "run" / "run.json").unlink()
    base = load(str(tiny_folder), use_cpu=True).template.text(Conversation((Turn("user", "Hi"),)), generate=True)
    assert prompt() == base, "an adapter without a template is asked as its base is"


def test_an_adapter_with_other_layers_is_refused(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1))
    deeper = tmp_path / "deeper"
    build_model(num_hidden_layers=3).save_pretrained(deeper)
    build_tokenizer().save_pretrained(deeper)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    (tmp_path / "run" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(deeper)})
    )
    with pytest.raises(ModelError, match="has no counterpart"):
        load(str(tmp_path / "run"), use_cpu=True)


def test_a_pickled_adapter_is_never_read(tiny_folder, chat_file, tmp_path):
    train(settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1))
    (tmp_path / "run" / "adapter_model.safetensors").rename(tmp_path / "run" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load(str(tmp_path / "run"), use_cpu=True)


def test_the_base_is_found_from_another_folder(tiny_folder, chat_file, tmp_path, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path / "models" / "foo")
    monkeypatch.chdir(tmp_path)
    train({**settings(tiny_folder, chat_file, tmp_path / "run", max_steps=1), "model_name_or_path": "models/foo"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(str(tmp_path / "run"), use_cpu=True).chat("Hi", max_new_tokens=2) is not None


def test_a_template_file_may_move_after_training(tiny_folder, chat_file, tmp_path):
    mine = tmp_path / "mine.jinja"
    mine.write_text(
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    train(settings(tiny_folder, chat_file, tmp_path / "run", template=str(mine), max_steps=1))
    mine.unlink()
    text = load(str(tmp_path / "run"), use_cpu=True).template.text(Conversation((Turn("user", "Hi"),)), generate=True)
    assert text == "[user]Hi<|im_end|>[assistant]"


def test_a_stopped_run_goes_on_even_with_save_only_model(tiny_folder, chat_file, tmp_path):
    only = {"save_only_model": True, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Interrupted):
        train(settings(tiny_folder, chat_file, tmp_path / "run", **only), callbacks=[stop_after(3)])
    train(settings(tiny_folder, chat_file, tmp_path / "run", **only, resume_from_checkpoint=True))
    train(settings(tiny_folder, chat_file, tmp_path / "whole", **only))
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "run")[name], tensor)


@pytest.mark.parametrize(
    "changes",
    [{"lora_rank": 8}, {"lora_target": "q_proj"}, {"finetuning_type": "full"}, {"lora_init": "pissa"}],
    ids=["rank", "target", "full", "start"],
)
def test_resuming_with_other_trainable_weights_is_an_error(tiny_folder, chat_file, tmp_path, changes):
    with pytest.raises(Interrupted):
        train(settings(tiny_folder, chat_file, tmp_path / "run"), callbacks=[stop_after(2)])
    with pytest.raises(RunFolderError, match="does not fit this model"):
        train(settings(tiny_folder, chat_file, tmp_path / "run", **changes, resume_from_checkpoint=True))


def test_an_infinite_gradient_stops_the_run_before_it_reaches_the_weights(tiny_folder, chat_file, tmp_path):
    from burnish.train import forward

    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    plain = forward.linear_cross_entropy
    forward.linear_cross_entropy = lambda hidden, *rest, **more: plain(Poisoned.apply(hidden), *rest, **more)
    try:
        with pytest.raises(BurnishError, match="gradient norm became"):
            train(settings(tiny_folder, chat_file, tmp_path / "run"))
    finally:
        forward.linear_cross_entropy = plain
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_several_adapters_are_merged_in_order_but_for_the_last(tiny_folder, chat_file, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("a", "b")):
        train(settings(tiny_folder, chat_file, tmp_path / name, learning_rate=2e-2, seed=seed))
    expected = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    for name in ("a", "b"):
        expected = PeftModel.from_pretrained(expected, tmp_path / name).merge_and_unload()
    with torch.no_grad():
        both = expected(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits
    still = {"learning_rate": 0.0, "max_steps": 1, "adapter_name_or_path": f"{tmp_path / 'a'},{tmp_path / 'b'}"}
    train(settings(tiny_folder, chat_file, tmp_path / "on", **still))
    assert f"LoRA: {tmp_path / 'b'} is trained on" in "".join(capsys.readouterr().out.split("\n"))
    torch.testing.assert_close(logits(tmp_path / "on"), both, atol=2e-5, rtol=2e-5)
    for name, tensor in weights(tmp_path / "b").items():
        assert torch.equal(weights(tmp_path / "on")[name], tensor)
    train(settings(tiny_folder, chat_file, tmp_path / "new", **still, create_new_adapter=True, pissa_init=True))
    torch.testing.assert_close(logits(tmp_path / "new"), both, atol=2e-5, rtol=2e-5)
