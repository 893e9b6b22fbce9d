"""llama.cpp behind the engine's contract: token ids go in, its chunks become events."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from burnish.errors import ModelError
from burnish.generate.request import Request, Sampling
from burnish.model.source import ModelSource
from burnish.serve import llamacpp
from burnish.serve.llamacpp import LlamaEngine, load_llamacpp
from burnish.serve.models import Served


def chunk(text, *ids, finish=None):
    return {
        "choices": [{"text": text, "logprobs": {"content": [{"id": each} for each in ids]}, "finish_reason": finish}]
    }


class FakeServer:
    """`handle_completions` as xllamacpp has it: calls back with chunks until the callback returns True."""

    def __init__(self, chunks):
        self.chunks, self.asked, self.stopped = chunks, [], 0
        self.gate = threading.Event()
        self.gate.set()

    def handle_completions(self, asked, take):
        self.asked.append(asked)
        self.gate.wait(5)
        for one in self.chunks:
            if take(one):
                self.stopped += 1
                return


def run(engine, seconds=5.0):
    events, deadline = [], time.monotonic() + seconds
    while engine.busy:
        assert time.monotonic() < deadline
        events += engine.step()
    return events


@pytest.fixture
def served(template):
    return Served("m", template, len(template.tokenizer))


def ids(served, text):
    return served.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_tokens_come_back_also_those_that_are_withheld(served):
    [a], world = ids(served, "a"), ids(served, "世")
    stop = served.template.terminator_id
    server = FakeServer([chunk("a", a), chunk("世", world[-1]), chunk("", stop), chunk("", finish="stop")])
    engine = LlamaEngine(server, served, 100, 2)
    sampling = Sampling(max_new_tokens=9, do_sample=True, temperature=0.5, top_k=3, top_p=0.9, seed=4)
    engine.submit(Request((5, 6), frozenset({stop}), sampling))
    events = run(engine)
    assert [event.token for event in events] == [a, *world, stop]
    assert [event.ending for event in events] == [None] * 4 + ["stop"]
    asked = server.asked[0]
    assert (asked["prompt"], asked["n_predict"], asked["temperature"], asked["seed"]) == ([5, 6], 9, 0.5, 4)
    assert (asked["top_k"], asked["top_p"], asked["min_p"], asked["repeat_penalty"]) == (3, 0.9, 0.0, 1.0)
    engine.close()


def test_greedy_is_greedy_and_a_limit_is_a_limit(served):
    [a] = ids(served, "a")
    server = FakeServer([chunk("a", a), chunk("", finish="length")])
    engine = LlamaEngine(server, served, 100, 1)
    engine.submit(Request((5,), frozenset(), Sampling(), copies=2))
    events = run(engine)
    assert sorted((event.copy, event.token, event.ending) for event in events if event.ending is None) == [
        (0, a, None),
        (1, a, None),
    ]
    assert sorted(event.copy for event in events if event.ending == "length") == [0, 1]
    assert server.asked[0]["temperature"] == 0.0
    assert "seed" not in server.asked[0]


def test_cancelling_stops_its_thread_and_frees_the_slot(served):
    [a] = ids(served, "a")
    server = FakeServer([chunk("a", a)] * 50)
    server.gate.clear()
    engine = LlamaEngine(server, served, 100, 1)
    first = engine.submit(Request((5,), frozenset(), Sampling()))
    engine.submit(Request((6,), frozenset(), Sampling()))
    engine.step()
    assert (engine.running, engine.waiting) == (1, 1)
    engine.cancel(first)
    server.gate.set()
    events = run(engine)
    assert {event.request for event in events} == {2}
    engine.close()  # waits for the thread, which may be asleep still
    assert server.stopped == 1


def test_a_refusal_ends_the_answer_and_nothing_else(served):
    engine = LlamaEngine(FakeServer([{"error": {"message": "no"}}]), served, 100, 1)
    engine.submit(Request((5,), frozenset(), Sampling()))
    [event] = run(engine)
    assert event.ending == "cancelled"
    with pytest.raises(ModelError):
        engine.submit(Request((1,) * 100, frozenset(), Sampling()))


def test_the_end_of_the_server_waits_for_the_threads(served, monkeypatch):
    [a] = ids(served, "a")
    server = FakeServer([chunk("a", a)] * 3)
    server.gate.clear()
    monkeypatch.setattr(llamacpp, "start_llamacpp", lambda *_, **__: SimpleNamespace(server=server))
    monkeypatch.setattr(llamacpp, "_context_length", lambda _: 100)
    source = ModelSource(name="m", location="somewhere", gguf_file="m.gguf")
    backend = load_llamacpp(source, served, slots=1, cpu=True, say=lambda _: None)
    backend.engine.submit(Request((5, 6), frozenset(), Sampling(max_new_tokens=9, do_sample=False)))
    backend.engine.step()
    threading.Timer(0.05, server.gate.set).start()
    backend.close()
    assert server.stopped == 1, "it was inside llama.cpp, and has left it"


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**63 - 1])
def test_no_seed_becomes_the_one_that_means_any(seed):
    """llama.cpp draws a seed of its own where it gets the largest number of 32 bits."""
    request = Request((5,), frozenset({2}), Sampling(max_new_tokens=1, do_sample=True, seed=seed))
    assert 0 <= llamacpp._asked(request, 0, 64)["seed"] < 2**32 - 1
