"""Asking with patience: pauses, refusals, servers that know less. Time is a number here; nothing waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from burnish.errors import BurnishError
from burnish.evaluate.judging.cost import Prices, estimate, guess_tokens
from burnish.evaluate.judging.endpoint import JudgeEndpoint, Manner
from burnish.evaluate.judging.pace import Pace, asked_pause, pause_after
from tests.judges import busy, judge_server, right


class Clock:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.now += seconds

    def __call__(self):
        return self.now


PROMPT = "<answer-aaaaaa>\nworth 7\n</answer-aaaaaa>"


def ask(server, *, prompts=(PROMPT,), per_minute=None, key=None, notes=None, seed=None, **manner):
    """The replies, and the clock by which they came."""
    clock = Clock()
    pace = Pace(per_minute, clock=clock, sleep=clock.sleep)
    note = (notes if notes is not None else []).append
    judge = JudgeEndpoint(server.url, "judge", key, Manner(**manner), pace, ("BURNISH_JUDGE_KEY",), note)

    async def run():
        try:
            return [await judge.ask(prompt, "score", seed) for prompt in prompts]
        finally:
            await judge.close()

    return asyncio.run(run()), clock


def test_a_reply_with_its_tokens():
    with judge_server() as server:
        [reply], clock = ask(server)
    assert (reply.text, reply.fault) == ('{"reason": "as it says", "score": 7}', None)
    assert (reply.prompt_tokens, reply.reply_tokens) == (100, 10)
    assert clock.slept == []
    [sent] = server.asked
    assert sent["temperature"] == 0
    assert sent["response_format"]["json_schema"]["schema"]["required"] == ["reason", "score"]
    assert "seed" not in sent


def test_tokens_are_guessed_where_the_server_does_not_count():
    with judge_server(usage=False) as server:
        [reply], _ = ask(server)
    assert reply.prompt_tokens == guess_tokens(PROMPT)


def test_requests_begin_evenly_over_the_minute():
    with judge_server() as server:
        _, clock = ask(server, prompts=[PROMPT] * 4, per_minute=30)
    assert clock.slept == [2, 2, 2]


def test_a_pause_holds_all():
    clock = Clock()
    pace = Pace(None, clock=clock, sleep=clock.sleep)
    pace.hold(7)
    pace.hold(3)
    asyncio.run(pace.turn())
    assert clock.slept == [7]


@pytest.mark.parametrize(
    ("script", "slept"),
    [
        (busy(2, **{"Retry-After": "9"}), [9, 9]),
        (busy(1, **{"retry-after-ms": "250"}), [0.25]),
        (busy(3), [1, 2, 4]),
        (busy(2, status=503), [1, 2]),
        (busy(1, status=500, **{"Retry-After": "nonsense"}), [1]),
    ],
)
def test_a_busy_server_is_asked_again(script, slept):
    with judge_server(script) as server:
        [reply], clock = ask(server)
    assert reply.fault is None
    assert clock.slept == slept


def test_pauses():
    assert [pause_after(n) for n in (0, 1, 5, 20)] == [1, 2, 32, 60]
    assert asked_pause({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, 1792567680.0) == 10
    assert asked_pause({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, 1792567780.0) == 0
    assert asked_pause({"retry-after-ms": "x", "retry-after": "3"}, 0.0) == 3
    assert asked_pause({}, 0.0) is None


def test_a_server_that_never_answers_is_given_up():
    with judge_server(busy(10**6, status=500)) as server, pytest.raises(BurnishError, match="does not answer") as gone:
        ask(server, retries=2)
    assert "status 500: come back later" in gone.value.what
    assert len(server.asked) == 3


def test_one_request_that_fails_is_not_the_end():
    poison = PROMPT + "poison"
    fails = busy(10**6, status=500)
    with judge_server(lambda asked: (fails if "poison" in str(asked) else right)(asked)) as server:
        replies, _ = ask(server, prompts=[PROMPT, poison, PROMPT], retries=1)
    assert [reply.fault for reply in replies] == [None, "no reply after 2 tries: status 500: come back later", None]
    with judge_server(lambda asked: (fails if "poison" in str(asked) else right)(asked)) as server:
        with pytest.raises(BurnishError, match="does not answer"):
            ask(server, prompts=[PROMPT, *[poison] * 9], retries=0)
        assert len(server.asked) == 1 + 5


def test_a_slow_server_is_asked_again():
    release = threading.Event()
    late = [True]

    def script(asked):
        if late.pop() if late else False:
            release.wait(30)
        return right(asked)

    with judge_server(script) as server:
        [reply], clock = ask(server, timeout_s=0.3)
        release.set()
    assert reply.fault is None
    assert clock.slept[0] == 1
    assert len(server.asked) >= 2


def refuses(name, words, status=400):
    """A server that does not know a part of a request."""

    def script(asked):
        if name in asked:
            return status, {"error": {"message": words, "param": name}}, {}
        return right(asked)

    return script


@pytest.mark.parametrize(
    ("name", "words", "note"),
    [
        ("response_format", "response_format is not supported", "takes no JSON schema"),
        ("response_format", "invalid request", "takes no JSON schema"),
        ("temperature", "Unsupported value: 'temperature' does not support 0", "nobody set the temperature"),
        ("seed", "unknown field seed", "takes no seed"),
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "calls max_tokens max_completion_tokens",
        ),
    ],
)
def test_what_a_server_does_not_know_is_left_out_and_told(name, words, note):
    notes = []
    with judge_server(refuses(name, words)) as server:
        replies, clock = ask(server, prompts=[PROMPT] * 2, notes=notes, seed=3)
    assert [reply.fault for reply in replies] == [None, None]
    assert len(server.asked) == 3, "it is tried once"
    assert clock.slept == []
    [told] = notes
    assert note in told
    assert name not in server.asked[-1]
    if name == "max_tokens":
        assert server.asked[-1]["max_completion_tokens"] == 512


def test_a_schema_that_the_user_wants_is_not_left_out():
    script = refuses("response_format", "response_format is not supported")
    with judge_server(script) as server:
        [reply], _ = ask(server, form="json_schema")
    assert reply.fault.startswith("the server refused it: response_format is not supported")


def test_a_text_that_a_server_refuses_is_a_fault_of_that_text():
    def script(asked):
        return (400, {"error": {"message": "content policy"}}, {}) if "bad" in str(asked) else right(asked)

    with judge_server(script) as server:
        replies, _ = ask(server, prompts=[PROMPT, PROMPT + "bad", PROMPT])
        assert [reply.fault for reply in replies] == [None, "the server refused it: content policy", None]
        assert "response_format" in server.asked[-1]
        with pytest.raises(BurnishError, match="answers 400: content policy"):
            ask(server, prompts=[PROMPT + "bad"] * 20)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (lambda asked: (404, {"error": {"message": "no such model"}}, {}), "answers 404"),
        (lambda asked: (403, {"error": {"message": "not for you"}}, {}), "answers 403"),
        (lambda asked: (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, {}), "answers 429: pay"),
        (lambda asked: (429, {"error": {"message": "later"}}, {"Retry-After": "4000"}), "asks to wait for 4000 s"),
        (lambda asked: (200, {"hello": "world"}, {}), "no answer of an OpenAI-compatible server"),
    ],
)
def test_what_no_patience_mends(script, what):
    with judge_server(script) as server, pytest.raises(BurnishError, match=what) as failed:
        ask(server)
    assert failed.value.fix or "403" in what or "429" in what
    assert len(server.asked) == 1


def test_a_wrong_key():
    with judge_server(key="secret") as server:
        with pytest.raises(BurnishError, match="wants a key") as refused:
            ask(server, key="other")
        assert "BURNISH_JUDGE_KEY" in str(refused.value)
        assert ask(server, key="secret")[0][0].fault is None


def test_nobody_listens():
    with judge_server() as server:
        pass
    with pytest.raises(BurnishError, match="does not answer"):
        ask(server, retries=1)


def test_what_it_will_cost():
    assert guess_tokens("a" * 400) == 108
    assert guess_tokens("春" * 50) == 58
    found = estimate(["a" * 400] * 10, 3, reasons=True, max_tokens=512, prices=Prices(1.0, 10.0))
    assert (found.requests, found.known, found.prompt_tokens) == (10, 3, 1080)
    assert (found.reply_tokens, found.most_reply_tokens) == (900, 5120)
    assert found.cost == pytest.approx((1080 + 9000) / 1e6)
    assert found.most_cost == pytest.approx((1080 + 51200) / 1e6)
    assert estimate(["a"], 0, reasons=False, max_tokens=512, prices=Prices()).cost is None
    assert estimate(["a"], 0, reasons=False, max_tokens=5, prices=Prices()).reply_tokens == 5
