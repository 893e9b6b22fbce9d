"""The loss of each sample: against a training run's eval_loss, and against each sample alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

from burnish import api
from burnish.cli.data_loss import run_loss, understand
from burnish.config import load_settings
from burnish.errors import BurnishError
from burnish.train.sample_losses import SampleLoss, sample_losses, summary
from tests.runs import settings


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run that was evaluated on data with answers of unequal length, one of them in two turns."""
    folder = tmp_path_factory.mktemp("losses")
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} " * (1 + n)}]}
        for n in range(6)
    ]
    rows[2]["messages"] += [{"role": "user", "content": "more"}, {"role": "assistant", "content": "2", "weight": 0.5}]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(tiny_folder, data, folder / "run", eval_dataset=str(data), max_steps=3, split_turns=True)
    record = api.train(values)
    return folder, data, record


def test_together_it_is_the_eval_loss_of_training(run, capsys):
    folder, data, record = run
    run_loss(str(data), str(folder / "run"), [], worst=2, to=None)
    lines = [json.loads(line) for line in (folder / "run" / "losses.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(6))
    assert lines[2]["parts"] == 2
    asked, name = understand(str(data), str(folder / "run"), [])
    rows = sample_losses(asked, name)
    assert summary(rows)["loss"] == pytest.approx(record["train"]["eval_loss"], abs=2e-6)
    assert [row.loss for row in rows] == pytest.approx([line["loss"] for line in lines])
    assert all(line["perplexity"] == pytest.approx(math.exp(line["loss"])) for line in lines)
    out = capsys.readouterr().out
    worst = max(lines, key=lambda line: line["loss"])
    assert f"{worst['loss']:.4f}" in out
    assert "The 2 rows with the highest loss" in out


def test_a_sample_has_its_own_loss(run, tiny_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, data, _ = run
    asked = load_settings({"dataset": str(data), "model_name_or_path": str(tiny_folder), "use_cpu": True})
    found = sample_losses(asked, str(tiny_folder))[4]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)
    messages = json.loads(data.read_text().splitlines()[4])["messages"]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    first = tokenizer(text[: text.rindex("assistant\n") + len("assistant\n")], add_special_tokens=False).input_ids
    with torch.no_grad():
        logprobs = model(ids).logits[0].float().log_softmax(-1)
    answer = range(len(first), ids.shape[1] - 1)  # up to the stop token; the newline behind it is not trained
    expected = -sum(float(logprobs[place - 1, ids[0, place]]) for place in answer) / len(answer)
    assert found.tokens == len(answer)
    assert found.loss == pytest.approx(expected, abs=1e-5)
    assert found.text.startswith("4 4 4")


def test_a_settings_file_measures_what_it_trained(run, tiny_folder, tmp_path, capsys):
    folder, data, _ = run
    file = tmp_path / "run.yaml"
    text = f"model_name_or_path: {tiny_folder}\ndataset: {data}\noutput_dir: "
    file.write_text(f"{text}{folder / 'run'}\n")
    assert understand(str(file), None, [])[1] == str(folder / "run")
    file.write_text(f"{text}{tmp_path / 'not yet'}\n")
    assert understand(str(file), None, [])[1] == str(tiny_folder)
    assert "not trained anything yet" in capsys.readouterr().out
    with pytest.raises(BurnishError, match="no model is named"):
        understand(str(data), None, [])
    with pytest.raises(BurnishError, match="not one of single samples"):
        sample_losses(load_settings({"stage": "dpo", "dataset": str(data)}), str(tiny_folder))


def test_a_hopeless_row_has_no_finite_perplexity():
    assert SampleLoss("a", 0, 8000.0, 10.0, 10).perplexity == math.inf
    assert math.isnan(SampleLoss("a", 0).loss)
