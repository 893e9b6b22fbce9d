"""One run, asked in every way there is, gives the same greedy answers, token for token."""

from __future__ import annotations

import json

import openai
import pytest
import torch

from burnish.api import predict_with, train
from burnish.cli.predict import understand
from burnish.data.records import Conversation, Turn
from burnish.export.gguf_job import export_gguf
from burnish.export.job import export_hf
from burnish.export.llamacpp import LlamaCpp, is_installed
from burnish.export.subject import Order, Wish
from burnish.generate.chat import load_chat_model
from burnish.generate.request import Sampling
from burnish.serve.load import Wanted, load_serving
from tests.ggufs import family_folder
from tests.runs import settings
from tests.serving import running

QUESTIONS = ("Say the number 3", "What is 5?", "a longer question, about nothing at all")
LONGEST = 12
GREEDY = Sampling(max_new_tokens=LONGEST)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LoRA run that has learned something, so that its answers are not decided by rounding."""
    folder = tmp_path_factory.mktemp("same")
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"{number} cats"}]}
        for number, question in enumerate(QUESTIONS)
    ]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    base = family_folder("llama", folder / "base")
    train(settings(base, data, folder / "run", num_train_epochs=4, learning_rate=0.02, lora_rank=8))
    return folder / "run", data


@pytest.fixture(scope="module")
def wanted(run):
    """What chat says to each question, and the ids of the prompts."""
    chat = load_chat_model(str(run[0]), use_cpu=True, sampling=GREEDY)
    prompts = [chat.template.prompt_ids(Conversation((Turn("user", question),))) for question in QUESTIONS]
    answers = [chat.answer([Turn("user", question)]) for question in QUESTIONS]
    assert len(set(answers)) > 1, "answers that are all alike would show nothing"
    return answers, prompts, chat.template


def test_served(run, wanted):
    serving = load_serving(Wanted(str(run[0]), defaults=GREEDY, loading={"use_cpu": True}), lambda _: None)
    with running(serving) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)
        model = client.models.list().data[0].id
        for question, answer in zip(QUESTIONS, wanted[0], strict=True):
            done = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], temperature=0
            )
            assert done.choices[0].message.content == answer


def test_predicted(run, wanted, tmp_path):
    words = [f"dataset={run[1]}", f"output_dir={tmp_path}", "do_sample=false", f"max_new_tokens={LONGEST}"]
    asked, name = understand(str(run[0]), None, words)
    predict_with(asked, name)
    made = [json.loads(line)["prediction"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert made == wanted[0] * 4


def test_exported_and_asked_by_plain_transformers(run, wanted, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_hf(Wish(str(run[0]), dtype="float32"), Order(str(tmp_path / "out")))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for question, prompt, answer in zip(QUESTIONS, wanted[1], wanted[0], strict=True):
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == prompt
        out = model.generate(torch.tensor([ids]), max_new_tokens=LONGEST, do_sample=False)[0, len(ids) :]
        assert tokenizer.decode(out, skip_special_tokens=True) == answer


@pytest.mark.skipif(not is_installed(), reason="llama.cpp is not installed")
def test_exported_and_asked_by_llamacpp(run, wanted, tmp_path):
    export_gguf(Wish(str(run[0])), Order(str(tmp_path / "out")), "f32")
    program = LlamaCpp(next((tmp_path / "out").glob("*.gguf")), longest=256, threads=1)
    template = wanted[2]
    for prompt, answer in zip(wanted[1], wanted[0], strict=True):
        assert template.decode(program.continued(prompt, LONGEST, template.stop_ids)) == answer
