"""A model behind a URL: what is sent, what comes back, and what goes wrong."""

from __future__ import annotations

import pytest

from burnish.data.records import Turn
from burnish.errors import BurnishError
from burnish.generate.remote import load_remote_model
from burnish.generate.request import Sampling
from tests.unit.generate.chat_server import chat_server


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("API_KEY", raising=False)


def test_an_answer_comes_in_pieces_and_is_counted():
    with chat_server() as server:
        model = load_remote_model(server.url)
        turns = [
            Turn("system", "Be brief."),
            Turn("user", "Hello"),
            Turn("assistant", "Yes?", reasoning="hm", weight=0),
        ]
        reply = model.begin([*turns, Turn("user", "Go on")])
        assert list(reply) == ["Hi ", "there"]
    assert (reply.tokens, reply.ending) == (7, "stop")
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on"},
    ]
    assert server.asked[0]["model"] == "tuned"


def test_only_what_was_set_is_sent():
    with chat_server() as server:
        model = load_remote_model(server.url)
        list(model.begin([Turn("user", "a")]))
        model.steer(Sampling(max_new_tokens=9, do_sample=True, temperature=0.3, top_k=5), {"max_new_tokens", "top_k"})
        list(model.begin([Turn("user", "a")], seed=4))
        model.steer(Sampling(do_sample=False, temperature=0.3, seed=2), {"do_sample", "temperature", "seed"})
        list(model.begin([Turn("user", "a")]))
    steering = [{key: body[key] for key in body if key not in ("model", "messages", "stream")} for body in server.asked]
    plain = {"stream_options": {"include_usage": True}}
    assert steering[0] == plain
    assert steering[1] == plain | {"max_tokens": 9, "seed": 4, "top_k": 5}
    assert steering[2] == plain | {"temperature": 0.0, "seed": 2}


def test_reasoning_beside_the_answer_becomes_a_thought():
    deltas = [{"reasoning_content": "let me"}, {"reasoning_content": " see"}, {"content": "42"}]
    with chat_server(deltas=deltas, finish="length") as server:
        reply = load_remote_model(server.url).begin([Turn("user", "a")])
        assert "".join(reply) == "<think>\nlet me see\n</think>\n\n42"
    assert (reply.turn.reasoning, reply.turn.content) == ("let me see", "42")
    assert reply.ending == "length"


def test_the_key_comes_from_the_environment(monkeypatch):
    with chat_server(key="sesame") as server:
        with pytest.raises(BurnishError, match="wants a key"):
            load_remote_model(server.url)
        monkeypatch.setenv("API_KEY", "sesame")
        load_remote_model(server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        with pytest.raises(BurnishError, match="refuses the key") as caught:
            load_remote_model(server.url)
        assert "wrong" not in str(caught.value)


def test_a_server_with_several_models_wants_a_choice():
    with chat_server(models=["base", "tuned"]) as server:
        with pytest.raises(BurnishError, match="several models") as caught:
            load_remote_model(server.url)
        assert "base, tuned" in str(caught.value)
        with pytest.raises(BurnishError, match="did you mean 'tuned'"):
            load_remote_model(server.url, "tund")
        assert load_remote_model(server.url, "tuned").model == "tuned"


def test_errors_of_the_server_are_told():
    with chat_server(status=400) as server:
        reply = load_remote_model(server.url).begin([Turn("user", "a")])
        with pytest.raises(BurnishError, match="400: too many tokens"):
            list(reply)
        url = server.url
    with pytest.raises(BurnishError, match="cannot be reached"):
        load_remote_model(url)
