"""Tokens per second: Burnish's engine beside transformers' own `generate`, greedy, the same prompts and lengths.

    .venv/bin/python bench/generation.py [--batches 1 8 32] [--tokens 64] [--rounds 3] [--model smollm2-135m-instruct]

Both run in turn, in one process, and the ratio of the medians is what counts. The texts must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from burnish.data.records import Conversation, Turn
from burnish.generate import Sampling, generate
from burnish.generate.chat import load_chat_model

QUESTIONS = (
    "Why is the sky blue?",
    "Tell me a story about a cat and a lighthouse.",
    "What is 12 times 7?",
    "Name three rivers.",
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--model", default="smollm2-135m-instruct")
    given = options.parse_args()
    chat = load_chat_model(given.model)
    ids = [chat.template.prompt_ids(Conversation((Turn("user", text),))) for text in QUESTIONS]
    kind = f"{next(chat.model.parameters()).dtype}, {torch.get_num_threads()} threads"
    print(f"{given.model}, {kind}, {given.tokens} tokens each")
    print("batch  plain generate  Burnish  ratio  equal rows")
    for batch in given.batches:
        prompts = [ids[place % len(ids)] for place in range(batch)]
        ways = {
            "plain": lambda p=prompts: plainly(chat, p, given.tokens),
            "ours": lambda p=prompts: ours(chat, p, given.tokens),
        }
        speeds, made = measure(ways, batch * given.tokens, given.rounds)
        same = sum(one == other for one, other in zip(made["plain"], made["ours"], strict=True))
        plain, mine = speeds["plain"], speeds["ours"]
        print(f"{batch:5}  {plain:8.1f} tok/s  {mine:7.1f}  {mine / plain:4.2f}×  {same} of {batch}")


def measure(ways: dict[str, Callable[[], Any]], tokens: int, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Tokens per second of each way, the median of `rounds` turns after one to warm up, and what it made."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    made = {name: way() for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            made[name] = way()
            times[name].append(time.perf_counter() - started)
    return {name: tokens / statistics.median(taken) for name, taken in times.items()}, made


def plainly(chat: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """`model.generate` over a batch that is padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = chat.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return out[:, width:].tolist()


def ours(chat: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    done = generate(chat.model, prompts, stop_ids=(), sampling=Sampling(max_new_tokens=tokens), batch_size=len(prompts))
    return [one.ids for one in done]


if __name__ == "__main__":
    main()
