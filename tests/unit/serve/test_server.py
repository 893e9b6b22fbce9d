"""The server around the answers: who may come in, what is turned away, what happens when things go wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import openai
import pytest

from burnish.serve.guard import LOOPBACK, Door
from burnish.serve.server import open_socket
from burnish.serve.serving import Limits
from tests.serving import exchange, running
from tests.unit.serve.conftest import make_serving

HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "say:Hello"}]}


def post(address, body, path="/v1/chat/completions", headers=(), kind="application/json"):
    """Status and parsed body of a request that is sent byte by byte."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(raw)}", "Connection: close", *headers]
    lines += [f"Content-Type: {kind}"] if kind else []
    return answer(address, "\r\n".join(lines).encode() + b"\r\n\r\n" + raw)


def get(address, path, headers=()):
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return answer(address, "\r\n".join(lines).encode() + b"\r\n\r\n")


def answer(address, raw):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Traceback" not in received
    assert b"/root" not in received
    return int(head.split()[1]), body


def error_of(body):
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_models_are_listed_and_looked_up_by_name_alone(client, address):
    assert [model.id for model in client.models.list()] == ["tiny", "tuned"]
    assert client.models.retrieve("tuned").parent == "tiny"
    for name in ("../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "tiny/../tuned", "/etc/passwd", "x" * 3000, "tiny%00"):
        status, body = get(address, f"/v1/models/{name}")
        assert (status, error_of(body)["code"]) == (404, "model_not_found")
        assert post(address, {**HELLO, "model": name})[0] == 404
    assert post(address, {**HELLO, "model": 3})[0] == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"[]", 400),
        (b"\xff\xfe{}", 400),
        (b'{"messages": NaN}', 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"a":' * 500 + b"1" + b"}" * 500, 400),
        (b"[" * 200_000, 400),
        (b'{"messages": ' + b"[" * 150 + b"]" * 150 + b"}", 400),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400),
        (b'{"messages": "hi"}', 400),
        (b'{"model": "tiny"}', 400),
    ],
)
def test_broken_bodies(address, body, status):
    got, text = post(address, body)
    assert got == status
    assert error_of(text)["type"] == "invalid_request_error"
    assert post(address, HELLO)[0] == 200


def test_other_kinds_of_body_are_refused_so_that_pages_of_other_sites_cannot_ask(address):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
        assert post(address, HELLO, kind=kind)[0] == 415
    assert post(address, HELLO, kind="application/json; charset=utf-8")[0] == 200


def test_a_body_that_is_too_large_is_not_read(template):
    with running(make_serving(template), Door(largest=1000, hosts=LOOPBACK)) as address:
        big = {**HELLO, "user": "x" * 2000}
        assert post(address, big)[0] == 413
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        claimed = exchange(address, head + b"Content-Length: 99999999999\r\n\r\n")
        assert claimed.startswith(b"HTTP/1.1 413")
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
        assert exchange(address, chunked).startswith(b"HTTP/1.1 413")
        assert post(address, HELLO)[0] == 200


def test_a_body_that_never_comes_ends_in_time(template):
    with running(make_serving(template), Door(time_limit_s=0.2)) as address:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert exchange(address, head).startswith(b"HTTP/1.1 408")


def test_host_names_of_others_are_refused(address):
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421)):
        raw = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        assert answer(address, raw)[0] == status


def test_a_key_is_needed_where_one_is_set(template):
    door = Door(key="secret", hosts=LOOPBACK)
    with running(make_serving(template), door) as address:
        for wrong in (
            [],
            ["Authorization: Bearer"],
            ["Authorization: Bearer secre"],
            ["Authorization: Basic secret"],
            ["Authorization: Bearer secrett"],
            ["Authorization: Bearer s\xe9cret"],
        ):
            for path in ("/v1/models", "/metrics", "/v1/models/tiny", "/docs", "/nowhere"):
                status, body = get(address, path, wrong)
                assert (status, error_of(body)["code"]) == (401, "invalid_api_key")
            assert post(address, HELLO, headers=wrong)[0] == 401
        assert get(address, "/health")[0] == 200
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
            assert client.chat.completions.create(**HELLO).choices[0].message.content == "Hello"
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="other", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_other_origins_are_let_in_only_where_it_was_said(template, address):
    asks = ["Origin: https://a.example", "Access-Control-Request-Method: POST"]
    raw = "\r\n".join(["OPTIONS /v1/models HTTP/1.1", "Host: localhost", "Connection: close", *asks]) + "\r\n\r\n"
    assert b"access-control" not in exchange(address, raw.encode()).lower()
    with running(make_serving(template), cors_origins=["https://a.example"]) as open_address:
        assert b"access-control-allow-origin: https://a.example" in exchange(open_address, raw.encode()).lower()
        other = raw.replace("a.example", "b.example").encode()
        assert b"access-control-allow-origin" not in exchange(open_address, other).lower()


def test_a_full_queue_says_when_to_come_back(template):
    serving = make_serving(template, limits=Limits(queue=1), slots=1)
    engine = serving.backend.engine
    with running(serving) as address:
        engine.gate.clear()
        waiting = [threading.Thread(target=post, args=(address, HELLO)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        wait_for(lambda: serving.worker.held == 2)
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as full,
        ):
            client.chat.completions.create(**HELLO)
        assert full.value.response.headers["retry-after"] == "1"
        assert full.value.body["code"] == "queue_full"
        engine.gate.set()
        for thread in waiting:
            thread.join(5)
        assert serving.worker.held == 0
        assert post(address, HELLO)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_client_that_goes_away_frees_its_slot(template, stream, path):
    serving = make_serving(template, slots=1, step_s=0.01)
    engine = serving.backend.engine
    with running(serving) as address:
        text = "say:" + "x" * 190
        body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
        raw = json.dumps({**body, "stream": stream}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
        )
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + raw)
            wait_for(lambda: engine.running == 1)
        wait_for(lambda: engine.running == 0 and serving.worker.held == 0, 1.5)
        assert engine.cancelled == [0]
        assert post(address, HELLO)[0] == 200


def test_a_stop_string_frees_the_slot(template):
    serving = make_serving(template, step_s=0.01)
    with running(serving) as address:
        body = {"messages": [{"role": "user", "content": "say:ab STOP " + "x" * 150}], "stop": "STOP"}
        assert json.loads(post(address, body)[1])["choices"][0]["message"]["content"] == "ab "
        wait_for(lambda: serving.backend.engine.cancelled == [0], 0.5)
        assert b"burnish_cancelled_total 0" in get(address, "/metrics")[1]


def test_the_time_limit(template):
    with running(make_serving(template, limits=Limits(time_s=0.15), step_s=0.02)) as address:
        long = {"messages": [{"role": "user", "content": "say:" + "x" * 150}]}
        status, body = post(address, long)
        assert (status, error_of(body)["code"]) == (504, "timeout")
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            stream = client.chat.completions.create(model="tiny", stream=True, **long)
            with pytest.raises(openai.APIError, match="took longer"):
                list(stream)
        assert post(address, HELLO)[0] == 200


def test_an_engine_that_fails_tells_no_secrets_and_goes_on(template):
    serving = make_serving(template)
    with running(serving) as address:
        serving.backend.engine.fail_next = True
        status, body = post(address, HELLO)
        assert (status, error_of(body)["code"]) == (500, "engine_failed")
        assert b"secret" not in body
        serving.backend.engine.fail_next = True
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="failed on this batch"):
                list(client.chat.completions.create(stream=True, **HELLO))
            assert client.chat.completions.create(**HELLO).choices[0].message.content == "Hello"
        assert serving.worker.held == 0
        assert b"burnish_engine_failures_total 2" in get(address, "/metrics")[1]


def test_one_thread_alone_touches_the_engine(template):
    serving = make_serving(template)
    with running(serving) as address:
        threads = [threading.Thread(target=post, args=(address, HELLO)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(serving.backend.engine.threads) == 1


def test_crossed_answers(template):
    """Many clients at once each get their own words, whole and streamed."""

    async def one(client, number):
        text = f"number {number} " * (1 + number % 4)
        asked = {"model": "tiny", "messages": [{"role": "user", "content": f"say:{text}"}]}
        if number % 2:
            done = await client.chat.completions.create(**asked)
            return done.choices[0].message.content == text
        got = ""
        async for chunk in await client.chat.completions.create(stream=True, **asked):
            got += chunk.choices[0].delta.content or ""
        return got == text

    async def all_of_them(address):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(40)))

    with running(make_serving(template)) as address:
        assert all(asyncio.run(all_of_them(address)))


def test_what_the_server_says_of_itself(address, client):
    client.chat.completions.create(**HELLO)
    assert json.loads(get(address, "/health")[1]) == {"status": "ok"}
    text = get(address, "/metrics")[1].decode()
    assert 'burnish_requests_total{route="/v1/chat/completions",method="POST",status="200"}' in text
    for name in ("answers_running 0", "answers_waiting 0", "generated_tokens_total", "time_to_first_token_seconds_sum"):
        assert f"burnish_{name}" in text
    assert b"/v1/chat/completions" in get(address, "/docs")[1]
    assert json.loads(get(address, "/openapi.json")[1])["info"]["title"] == "Burnish"
    for path in ("/nowhere", "/v1/../etc", "/v1/chat/completions/x"):
        status, body = get(address, path)
        assert (status, error_of(body)["type"]) == (404, "invalid_request_error")
    assert get(address, "/v1/chat/completions")[0] == 405
    assert answer(address, b"PUT /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[0] == 405


def test_answered_requests_are_timed(template):
    with running(make_serving(template)) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x") as client:
        client.chat.completions.create(**HELLO, n=2)
        list(client.chat.completions.create(**HELLO, stream=True))
        client.completions.create(model="tiny", prompt=["say:a", "say:b"])
        list(client.completions.create(model="tiny", prompt="say:a", stream=True))
        assert "\nburnish_request_seconds_count 4\n" in get(address, "/metrics")[1].decode()


def test_docs_are_for_this_machine_only(template):
    with running(make_serving(template), docs=False) as address:
        assert get(address, "/docs")[0] == get(address, "/openapi.json")[0] == 404


def test_a_taken_port_is_an_error_of_the_users():
    from burnish.errors import BurnishError

    taken = open_socket("127.0.0.1", 0)
    with pytest.raises(BurnishError, match="cannot listen on"):
        open_socket("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_a_server_that_ends_takes_no_more_and_tells_those_it_cuts(template):
    serving = make_serving(template, step_s=0.02)
    long = {"model": "tiny", "messages": [{"role": "user", "content": "say:" + "x" * 190}]}
    with running(serving) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        stream = iter(client.chat.completions.create(stream=True, **long))
        next(stream)
        loop = serving.worker._loop
        loop.call_soon_threadsafe(serving.wind_down, 0.3)
        wait_for(lambda: post(address, HELLO)[0] == 503)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert serving.worker.held == 0
