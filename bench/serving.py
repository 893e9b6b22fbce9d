"""Many clients at once against a real server process: no error, no crossed answers, flat memory.

    .venv/bin/python bench/serving.py [--clients 32] [--seconds 60] [--model smollm2-135m-instruct] [--tokens 24]

Each client asks one of a few questions, greedily, whole or as a stream, and holds the answer against the one that was
given to the same question alone. Some clients hang up in the middle, some send rubbish. Prints tokens per second for
one client alone and for all of them, and the server's memory over time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter

import openai
import psutil

QUESTIONS = (
    "Why is the sky blue?",
    "Tell me a story about a cat and a lighthouse.",
    "What is 12 times 7?",
    "Name three rivers.",
    "Say hello in French.",
    "How do plants grow?",
    "What is a prime number?",
    "Write one line about the sea.",
)
RUBBISH = (b"{", b'{"messages": 3}', b'{"messages": []}', b'{"model": "../../etc/passwd", "messages": []}', b"[" * 5000)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--tokens", type=int, default=24)
    options.add_argument("--slots", type=int, default=8)
    given = options.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    command = [sys.executable, "-m", "burnish", "serve", given.model, "--port", "0", "--slots", str(given.slots)]
    server = subprocess.Popen([*command, "--name", "m"], stdout=subprocess.PIPE, text=True)
    try:
        address = _address(server)
        asyncio.run(_measure(address, server.pid, given))
    finally:
        server.send_signal(signal.SIGTERM)
        print(f"the server ended with {server.wait(60)}")


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("serving "):
            return next(word for word in line.split() if word.startswith("http://")).removesuffix("/v1")
    raise SystemExit("the server did not start")


async def _measure(address: str, pid: int, given: argparse.Namespace) -> None:
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    started, alone, tokens = time.monotonic(), {}, 0
    for question in QUESTIONS:
        alone[question], count = await _ask(client, question, given.tokens, stream=False)
        tokens += count
    print(f"one client: {tokens / (time.monotonic() - started):.1f} tokens/s")
    process = psutil.Process(pid)
    memory: list[float] = []
    seen: Counter[str] = Counter()
    end = time.monotonic() + given.seconds

    async def client_of(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < end:
            question = draw.choice(QUESTIONS)
            try:
                if draw.random() < 0.1:
                    await _hang_up(address, question, draw.random())
                    seen["hung up"] += 1
                elif draw.random() < 0.1:
                    seen["rubbish refused" if await _send_rubbish(address, draw) else "RUBBISH TAKEN"] += 1
                else:
                    answer, count = await _ask(client, question, given.tokens, stream=draw.random() < 0.5)
                    seen["right" if answer == alone[question] else "WRONG"] += 1
                    seen["tokens"] += count
            except openai.APIError as error:
                seen[f"ERROR {type(error).__name__}"] += 1

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(process.memory_info().rss / 2**20)
            await asyncio.sleep(2)

    started = time.monotonic()
    await asyncio.gather(watch(), *(client_of(number) for number in range(given.clients)))
    spent = time.monotonic() - started
    print(f"{given.clients} clients, {spent:.0f} s: {seen['tokens'] / spent:.1f} tokens/s")
    print(", ".join(f"{name} {count}" for name, count in sorted(seen.items())))
    third = max(len(memory) // 3, 1)
    print(
        f"memory of the server, MiB: first third up to {max(memory[:third]):.0f}, last up to {max(memory[-third:]):.0f}"
    )
    await asyncio.sleep(1)
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    print(
        *[
            line
            for line in text.splitlines()
            if line.startswith(("burnish_answers", "burnish_engine_f", "burnish_canc"))
        ]
    )
    await client.close()


async def _ask(client: openai.AsyncOpenAI, question: str, tokens: int, *, stream: bool) -> tuple[str, int]:
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
    }
    if not stream:
        done = await client.chat.completions.create(**asked)
        return done.choices[0].message.content or "", done.usage.completion_tokens
    text, count = "", 0
    async for chunk in await client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **asked
    ):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        count = chunk.usage.completion_tokens if chunk.usage else count
    return text, count


def _raw(body: bytes) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body


async def _hang_up(address: str, question: str, seconds: float) -> None:
    """Ask, and leave before the answer is there."""
    host, port = address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    body = {"messages": [{"role": "user", "content": question}], "stream": seconds < 0.5}
    writer.write(_raw(json.dumps(body).encode()))
    await writer.drain()
    await asyncio.sleep(seconds)
    writer.close()


async def _send_rubbish(address: str, draw: random.Random) -> bool:
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    writer.write(_raw(draw.choice(RUBBISH)))
    answer = await reader.read()
    writer.close()
    return answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")) and b"Traceback" not in answer


if __name__ == "__main__":
    main()
