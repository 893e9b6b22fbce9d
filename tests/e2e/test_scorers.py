"""ppo with reward_model_type: api: rewards from a small server, from `burnish serve`, and from servers that fail."""

from __future__ import annotations

import threading

import openai
import pytest
import torch

from burnish.api import load_reward_model, train
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError
from burnish.serve.load import Wanted, load_serving
from burnish.train.rollouts.completions import COMPLETIONS
from tests import answering, serving
from tests.invariant.test_training import rows
from tests.judged import pair_file
from tests.rollouts import COMMON, prompt_file
from tests.runs import settings, weights

PPO = {**COMMON, "stage": "ppo", "reward_model_type": "api", "ppo_epochs": 1, "max_steps": 2, "learning_rate": 1e-3}


def run(model, folder, name, url, **changes):
    made = settings(model, prompt_file(folder), folder / name, **{**PPO, "reward_model": url, **changes})
    train(made)
    return rows(folder / name)


@pytest.fixture
def server():
    with answering.running() as made:
        yield made


def test_rewards_come_from_a_server_as_llamafactory_asks_it(tiny_folder, tmp_path, server):
    server.reply = lambda asked: (200, {"scores": [float(len(text)) for text in asked["completions"]]})
    found = run(tiny_folder, tmp_path, "run", f"{server.url}/v1/score/evaluation")
    texts = [one for _, _, asked in server.asked for one in asked["completions"]]
    assert len(texts) == 16
    assert [row["reward"] for row in found] == [
        pytest.approx(sum(map(len, texts[start : start + 8])) / 8) for start in (0, 8)
    ]
    assert found[0]["rewards/http_scorer"] == found[0]["reward"]
    path, _, asked = server.asked[0]
    assert path == "/v1/score/evaluation"
    for prompt, answer, whole in zip(asked["prompts"], asked["completions"], asked["messages"], strict=True):
        # The policy's own template: what it read, and what it said.
        assert whole.startswith(f"<|im_start|>user\n{prompt[0]['content']}<|im_end|>\n<|im_start|>assistant\n{answer}")


def test_a_served_reward_model_gives_the_rewards_that_it_gives_in_memory(tiny_folder, tmp_path):
    train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "rm", stage="rm", max_steps=3))
    wanted = Wanted(str(tmp_path / "rm"), loading={"use_cpu": True}, given=frozenset({"use_cpu"}))
    with serving.running(load_serving(wanted, lambda _: None)) as address:
        over = run(tiny_folder, tmp_path, "over", f"{address}/v1/score/evaluation")
    here = run(tiny_folder, tmp_path, "here", str(tmp_path / "rm"), reward_model_type="lora")
    for one, two in zip(over, here, strict=True):
        assert one["rewards/http_scorer"] == pytest.approx(two["rewards/reward_model"], abs=1e-5)
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
    ours, theirs = ((tmp_path / name / COMPLETIONS).read_text().count("reward") for name in ("over", "here"))
    assert ours == theirs > 0


def test_the_service_scores_texts_and_refuses_halves(tiny_folder, tmp_path):
    train(settings(tiny_folder, pair_file(tmp_path), tmp_path / "rm", stage="rm", max_steps=1))
    model = load_reward_model(str(tmp_path / "rm"), use_cpu=True)
    talk = Conversation((Turn("user", "one"), Turn("assistant", "two")))
    text = model.template.text(talk, generate=False)
    wanted = Wanted(str(tmp_path / "rm"), loading={"use_cpu": True}, given=frozenset({"use_cpu"}))
    with (
        serving.running(load_serving(wanted, lambda _: None)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):

        def post(body):
            return client.post("/score/evaluation", body=body, cast_to=dict[str, object])

        done = post({"model": "model", "messages": [text, text]})  # what LLaMA-Factory's ppo sends
        assert done["scores"] == pytest.approx(model.score([talk]) * 2, abs=1e-5)
        for body, param in (
            ({"messages": []}, "messages"),
            ({"messages": [text], "completions": ["two"]}, "completions"),
            ({"messages": [text], "prompts": [], "completions": []}, "prompts"),
            ({"messages": ["x" * 600]}, "messages"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                post(body)
            assert refused.value.body["param"].startswith(param)


def test_some_failures_cost_their_answers_only(tiny_folder, tmp_path, server, capsys):
    """The first rollout gets a 500, the second nonsense for single answers; the third is scored."""
    replies = iter([
        lambda asked: (500, b"out of memory"),
        lambda asked: (200, {"scores": [1.0, None, float("nan"), *[0.5] * 5]}),
        lambda asked: (200, {"scores": [float(len(text)) for text in asked["completions"]]}),
    ])  # fmt: skip
    server.reply = lambda asked: next(replies)(asked)
    found = run(tiny_folder, tmp_path, "run", server.url, max_steps=3, save_strategy="steps", save_steps=1)
    assert [row["unscored"] for row in found] == [1.0, 0.25, 0.0]
    before = weights(tmp_path / "run" / "checkpoint-1")
    assert not any(tensor.any() for name, tensor in before.items() if "lora_B" in name), "nothing was learnt"
    after = weights(tmp_path / "run")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert found[1]["supervised_tokens"] < found[2]["supervised_tokens"]
    said = capsys.readouterr().out
    for words in ("got status 500 from", "out of memory", "answered None", "answered nan", "prompts.jsonl, row"):
        assert words in said


def test_a_server_that_is_too_slow_ends_the_run_after_three_rollouts(tiny_folder, tmp_path, server):
    free = threading.Event()
    server.reply = lambda asked: (200, {"scores": [1.0] * len(asked["completions"])} if free.wait(60) else {})
    try:
        with pytest.raises(BurnishError) as caught:
            run(tiny_folder, tmp_path, "run", server.url, max_steps=9, reward_timeout=0.2)
    finally:
        free.set()
    assert "http_scorer" in f"{caught.value.what} {caught.value.fix}"
    assert caught.value.exit_code == 2
    assert len(rows(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        ({"detail": "Not Found"}, "answered no list of scores"),
        ({"scores": [1.0]}, "gave 1 scores for 8 texts"),
        ({"scores": ["good"] * 8}, "answered str 'good', not a number"),
    ],
)
def test_another_protocol_ends_the_run_at_once(tiny_folder, tmp_path, server, reply, what):
    server.reply = lambda asked: (200, reply)
    with pytest.raises(BurnishError, match=what):
        run(tiny_folder, tmp_path, "run", server.url)
    assert len(server.asked) == 1


def test_an_address_that_is_none(tiny_folder, tmp_path):
    with pytest.raises(BurnishError, match="no address of a scorer"):
        run(tiny_folder, tmp_path, "run", str(tmp_path / "rm"))
