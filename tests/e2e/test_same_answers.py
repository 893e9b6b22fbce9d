"""One run, asked in every way there is, gives the same greedy answers, token for token."""

from __future__ import annotations

import json
import time

import openai
import pytest
import torch

from burnish.api import predict_with, train
from burnish.cli.predict import understand
from burnish.data.records import Conversation, Turn
from burnish.export.gguf_job import export_gguf
from burnish.export.job import export_hf
from burnish.export.llamacpp import LlamaCpp
from burnish.export.subject import Order, Wish
from burnish.generate.chat import load_chat_model
from burnish.generate.llamacpp import is_installed, start_llamacpp
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


needs_llamacpp = pytest.mark.skipif(not is_installed(), reason="llama.cpp is not installed")


@pytest.fixture(scope="module")
def gguf(run, tmp_path_factory):
    """The run as an f32 file."""
    folder = tmp_path_factory.mktemp("gguf") / "out"
    export_gguf(Wish(str(run[0])), Order(str(folder)), "f32")
    return next(folder.glob("*.gguf"))


@needs_llamacpp
def test_exported_and_asked_by_llamacpp(gguf, wanted):
    program = LlamaCpp(gguf, longest=256, threads=1)
    template = wanted[2]
    for prompt, answer in zip(wanted[1], wanted[0], strict=True):
        assert template.decode(program.continued(prompt, LONGEST, template.stop_ids)) == answer


def test_exported_and_chatted_with(gguf, wanted, capsys, monkeypatch):
    from burnish.cli.main import main

    words = [str(gguf), "--prompt", QUESTIONS[1], "do_sample=false", f"max_new_tokens={LONGEST}", "use_cpu=true"]
    monkeypatch.setattr("sys.argv", ["burnish", "chat", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == wanted[0][1] + "\n"


@pytest.fixture(scope="module")
def llamacpp(gguf):
    """The file served by llama.cpp: our server over it, and a client."""
    wish = Wanted(str(gguf), name="m", defaults=GREEDY, slots=2, loading={"use_cpu": True})
    serving = load_serving(wish, lambda _: None)
    assert serving.backend.name == "llamacpp"
    with running(serving) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield serving, client


def asked_of(client, question, **options):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}], **options)


@needs_llamacpp
def test_exported_and_served_by_llamacpp(llamacpp, wanted):
    _, client = llamacpp
    for question, answer, prompt in zip(QUESTIONS, wanted[0], wanted[1], strict=True):
        done = asked_of(client, question)
        assert (done.choices[0].message.content, done.choices[0].finish_reason) == (answer, "stop")
        assert done.usage.prompt_tokens == len(prompt)
        assert done.usage.completion_tokens == len(wanted[2].tokenizer(answer)["input_ids"]) + 1
        chunks = list(asked_of(client, question, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer
        assert chunks[-1].choices[0].finish_reason == "stop"
        cut = asked_of(client, question, stop=" cat")
        assert cut.choices[0].message.content == answer.partition(" cat")[0]
        short = asked_of(client, question, max_tokens=1)
        assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 1)


@needs_llamacpp
def test_a_seed_is_llamacpps_own(llamacpp, gguf, wanted):
    _, client = llamacpp
    hot = {"temperature": 2.0, "top_p": 1.0, "extra_body": {"top_k": 0}, "max_tokens": 6}
    made = {seed: asked_of(client, QUESTIONS[0], seed=seed, **hot).choices[0].message.content for seed in (7, 8, 9)}
    assert len(set(made.values())) > 1
    twice = [asked_of(client, QUESTIONS[0], seed=7, n=2, **hot).choices for _ in range(2)]
    first, second = [[one.message.content for one in choices] for choices in twice]
    assert first == second
    assert first[0] == made[7]
    assert first[1] not in made.values()  # a copy has a seed of its own
    server = start_llamacpp(gguf, window=512).server
    samplers = {"samplers": ["temperature"], "temperature": 2.0, "seed": 7}
    direct = server.handle_completions({"prompt": wanted[1][0], "n_predict": 6, **samplers})
    assert direct["choices"][0]["text"].rstrip("�") == made[7]  # half of a character at the end is left out


@needs_llamacpp
def test_what_llamacpp_does_not_do_is_refused_and_a_client_that_leaves_frees_its_slot(llamacpp):
    serving, client = llamacpp
    for asked in (
        {"logprobs": True},
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 1},
        {"response_format": {"type": "json_object"}},
    ):
        with pytest.raises(openai.BadRequestError, match="not supported with the engine llamacpp") as refused:
            asked_of(client, "Hi", **asked)
        assert refused.value.body["param"] == next(iter(asked))
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512") as refused:
        asked_of(client, "Hi", max_tokens=511)
    assert refused.value.body["code"] == "context_length_exceeded"
    hot = {"temperature": 2.0, "top_p": 1.0, "extra_body": {"top_k": 0}, "max_tokens": 400}
    stream = asked_of(client, "Hi", stream=True, seed=1, **hot)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 30
    while serving.worker.held or serving.backend.engine.busy:
        assert time.monotonic() < deadline, "the slot is still taken"
        time.sleep(0.01)
    assert asked_of(client, QUESTIONS[0]).choices[0].finish_reason == "stop"
