"""`burnish serve` with real models: the same answers as chat, adapters beside each other, scores, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import openai
import pytest

from burnish.api import load_reward_model, train
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError
from burnish.generate.chat import load_chat_model
from burnish.generate.request import Sampling
from burnish.model.source import find_model
from burnish.serve.load import Wanted, load_serving
from tests.runs import settings
from tests.serving import running

QUESTIONS = ("Say the number 3", "What is 5?", "a much longer question, about nothing at all", "b")
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """Two runs on one base that answer differently."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for name, word in (("first", "cat"), ("second", "dog")):
        data = folder / f"{name}.jsonl"
        rows = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": word}]} for q in QUESTIONS
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        more = {"default_system": f"You say {word}."} if name == "second" else {}
        changes = {"num_train_epochs": 6, "learning_rate": 0.05, "lora_rank": 8, **more}
        train(settings(tiny_folder, data, folder / name, **changes))
        made[name] = folder / name
    return made


def serve(model, **wanted):
    return load_serving(Wanted(str(model), defaults=GREEDY, loading={"use_cpu": True}, **wanted), lambda _: None)


def talk(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)


def answers(client, model, **options):
    """The answers to all questions, asked at the same time."""
    got = {}

    def ask(question):
        messages = [{"role": "user", "content": question}]
        done = client.chat.completions.create(model=model, messages=messages, **options)
        got[question] = done.choices[0].message.content

    threads = [threading.Thread(target=ask, args=(question,)) for question in QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [got.get(question) for question in QUESTIONS]


def alone(folder):
    chat = load_chat_model(str(folder), use_cpu=True, sampling=GREEDY)
    return [chat.answer([Turn("user", question)]) for question in QUESTIONS]


def test_adapters_beside_each_other_answer_like_each_run_alone(tiny_folder, runs):
    serving = serve(tiny_folder, name="base", adapters={name: str(folder) for name, folder in runs.items()}, slots=4)
    wanted = {"base": alone(tiny_folder), **{name: alone(folder) for name, folder in runs.items()}}
    assert len({tuple(each) for each in wanted.values()}) == 3, "the three models answer alike: the test shows nothing"
    with running(serving) as address, talk(address) as client:
        assert [model.id for model in client.models.list()] == ["base", "first", "second"]
        got = {}
        threads = [threading.Thread(target=lambda n=name: got.update({n: answers(client, n)})) for name in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == wanted


def test_a_run_is_served_as_chat_answers(runs):
    with running(serve(runs["second"])) as address, talk(address) as client:
        assert [model.id for model in client.models.list()] == ["second"]
        assert answers(client, "second") == alone(runs["second"])
        done = client.chat.completions.create(
            model="second", messages=[{"role": "user", "content": "b"}], logprobs=True, top_logprobs=3, n=2,
            temperature=0.8, seed=3, frequency_penalty=0.3, logit_bias={"5": -100},
        )  # fmt: skip
        again = client.chat.completions.create(
            model="second", messages=[{"role": "user", "content": "b"}], n=2, temperature=0.8, seed=3,
            frequency_penalty=0.3, logit_bias={"5": -100},
        )  # fmt: skip
        assert [one.message.content for one in done.choices] == [one.message.content for one in again.choices]
        for one in done.choices[0].logprobs.content:
            assert one.logprob <= one.top_logprobs[0].logprob <= 0.0


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ({"base": "first"}, "two models would have the name"),
        ({"x": "nowhere"}, "there is no model"),
        ({"x": "base"}, "there is no adapter for 'x'"),
    ],
)
def test_adapters_that_cannot_stand_there(tiny_folder, runs, adapters, words):
    places = {
        name: str(runs.get(folder, tiny_folder if folder == "base" else folder)) for name, folder in adapters.items()
    }
    with pytest.raises(BurnishError, match=words):
        serve(tiny_folder, name="base", adapters=places)


def test_an_adapter_of_another_base_and_a_run_below_adapters(tiny_folder, runs, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    with pytest.raises(BurnishError, match="trained on another base"):
        serve(other, adapters={"x": str(runs["first"])})
    with pytest.raises(BurnishError, match="is a run that has one already"):
        serve(runs["first"], adapters={"x": str(runs["second"])})


def test_a_reward_model_scores_and_does_not_talk(tiny_folder, tmp_path):
    rows = [
        {
            "conversations": [{"from": "human", "value": f"number {n}"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        }
        for n in range(4)
    ]
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps(rows))
    train(settings(tiny_folder, data, tmp_path / "rm", stage="rm", num_train_epochs=1))
    asked = [
        [{"role": "user", "content": "number 1"}, {"role": "assistant", "content": word}]
        for word in ("yes", "no", "so")
    ]
    conversations = [Conversation(tuple(Turn(turn["role"], turn["content"]) for turn in one)) for one in asked]
    wanted = load_reward_model(str(tmp_path / "rm"), use_cpu=True).score(conversations)
    for setting in ("template", "temperature", "infer_dtype", "adapter_name_or_path"):
        with pytest.raises(BurnishError, match=f"'{setting}' has no effect on a reward model"):
            serve(tmp_path / "rm", given=frozenset({"use_cpu", setting}))
    with running(serve(tmp_path / "rm", slots=2)) as address, talk(address) as client:
        done = client.post("/score", body={"model": "rm", "conversations": asked}, cast_to=dict[str, object])
        assert [one["score"] for one in done["data"]] == pytest.approx(wanted, abs=1e-5)
        single = client.post("/score", body={"messages": asked[1]}, cast_to=dict[str, object])
        assert single["data"][0]["score"] == pytest.approx(wanted[1], abs=1e-5)
        counted = client.get("http://" + address.split("/")[2] + "/metrics", cast_to=str)
        assert "burnish_request_seconds_count 2\n" in counted
        for body, param in (
            ({}, "messages"),
            ({"messages": asked[0], "conversations": asked}, "messages"),
            ({"messages": asked[0][:1]}, "messages"),
            ({"conversations": [asked[0], asked[0][:1]]}, "conversations[1]"),
            ({"messages": [{"role": "user", "content": "x" * 600}, asked[0][1]]}, "messages"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                client.post("/score", body=body, cast_to=dict[str, object])
            assert refused.value.body["param"].startswith(param)
        with pytest.raises(openai.BadRequestError, match="reward model"):
            client.chat.completions.create(model="rm", messages=asked[0][:1])


def _started(arguments, **environment):
    command = [sys.executable, "-m", "burnish", "serve", *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_the_command_line_serves_until_it_is_told_to_stop(tiny_folder):
    process = _started(
        [str(tiny_folder), "use_cpu=true", "--drain", "60"], API_PORT="0", API_KEY="k", API_MODEL_NAME="mine"
    )
    try:
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "/docs" in line:
                break
        text = "".join(seen)
        assert "serving mine at http://127.0.0.1:" in text, text
        assert 'Authorization: Bearer $API_KEY"' in text
        assert "OpenAI(base_url=" in text
        address = next(word for word in text.split() if word.startswith("http://127.0.0.1:")).removesuffix("/v1")
        with openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="mine", messages=[{"role": "user", "content": "a"}], stream=True, max_tokens=20, temperature=0,
                logit_bias={"2": -100},
            )  # fmt: skip
            next(iter(stream))
            process.send_signal(signal.SIGTERM)
            rest = [chunk.choices[0].finish_reason for chunk in stream]
            assert rest[-1] == "length", "a running answer was cut although there was time"
        assert process.wait(60) == 0
        assert "stopped" in process.stdout.read()
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=2)
    finally:
        process.kill()
        process.stdout.close()


@pytest.fixture
def refused(capsys, monkeypatch):
    """The message of a command line that is turned down before anything is loaded."""
    from burnish.cli.main import main

    monkeypatch.delenv("API_KEY", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["burnish", "serve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_mistakes_on_the_command_line(refused, monkeypatch, tiny_folder):
    model = str(tiny_folder)
    for host in ("0.0.0.0", "::", "192.168.0.1", "my-machine"):
        assert "set API_KEY" in refused(model, "--host", host)
    assert "NAME=RUN_DIR" in refused(model, "--adapter", "runs/first")
    assert "two adapters" in refused(model, "--adapter", "a=b", "--adapter", "a=c")
    assert "cannot be the name" in refused(model, "--name", "a b")
    assert "cannot be the name" in refused(model, "--name", "../x y")
    assert "unknown engine" in refused(model, "--engine", "tgi")
    assert "has no effect in serve" in refused(model, "learning_rate=1")
    assert "there is no model" in refused("./nothing-here", "--port", "0")
    assert "reads .gguf files only" in refused(model, "--port", "0", "--engine", "llamacpp")
    assert "burnish[vllm]" in refused(model, "--port", "0", "--engine", "vllm")
    monkeypatch.setenv("API_KEY", "with space ")
    assert "plain characters" in refused(model, "--host", "0.0.0.0")


def test_a_taken_port_is_known_before_anything_is_loaded(refused):
    from burnish.serve.server import open_socket

    taken = open_socket("127.0.0.1", 0)
    started = time.monotonic()
    assert "cannot listen" in refused("./nothing-here", "--port", str(taken.getsockname()[1]))
    assert time.monotonic() - started < 20
    taken.close()


def test_help_loads_neither_torch_nor_the_server():
    code = (
        "import sys; sys.argv = ['burnish', 'serve', '--help']\n"
        "from burnish.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'fastapi', 'openai', 'uvicorn', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert "API_KEY" in done.stdout


def test_names_of_models(tiny_folder, runs):
    from burnish.serve.load import short_name

    assert short_name(find_model(str(runs["first"])), str(runs["first"])) == "first"
    assert short_name(find_model("some/hub-model"), "some/hub-model") == "some/hub-model"
