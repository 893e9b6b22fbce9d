"""Tokens per second, greedy, in one run: the engine of `burnish serve`, transformers' own `generate`, and llama.cpp.

    .venv/bin/python bench/generation.py [--streams 1 8] [--tokens 64] [--rounds 3] [--kinds f32 bf16 q8_0]
                                         [--model smollm2-135m-instruct]

One stream alone and several at once get the same prompts and make the same number of tokens. All ways take turns in one
process with the same number of threads, so the ratios are what counts. llama.cpp (extra `llamacpp`) gets the model as
GGUF files of each kind; without it, those lines are left out. In float32 the answers of all three must be equal.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from burnish.data.records import Conversation, Turn
from burnish.export.gguf_file import write_gguf
from burnish.export.gguf_tokenizer import vocabulary
from burnish.generate.chat import load_chat_model
from burnish.generate.engine import Engine
from burnish.generate.llamacpp import is_installed, start_llamacpp
from burnish.generate.request import Request, Sampling

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
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
Way = Callable[[Sequence[list[int]], int], list[Any]]
"""(prompts, tokens) → what was made of each prompt."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--kinds", nargs="+", default=["f32", "bf16", "q8_0"], choices=["f32", "bf16", "q8_0"])
    options.add_argument("--model", default="smollm2-135m-instruct")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways, template = all_ways(given.model, given.kinds, max(given.streams), given.tokens, Path(folder))
        ids = [template.prompt_ids(Conversation((Turn("user", text),))) for text in QUESTIONS]
        print(f"{given.model}, {torch.get_num_threads()} threads, {given.tokens} tokens a stream, greedy")
        speeds: dict[int, dict[str, float]] = {}
        for streams in given.streams:
            prompts = [ids[place % len(ids)] for place in range(streams)]
            speeds[streams], made = measure(ways, prompts, given.tokens, given.rounds)
            show(streams, speeds[streams])
            print(f"  float32: {equal_rows(made, template)}")
    first, last = min(given.streams), max(given.streams)
    if first < last:
        print(f"\n{last} streams beside {first}, in tokens/s of all together")
        for name, speed in speeds[last].items():
            print(f"  {name:16} {speed / speeds[first][name]:5.2f}×")


def all_ways(model: str, kinds: Sequence[str], slots: int, tokens: int, folder: Path) -> tuple[dict[str, Way], Any]:
    """Every way to make tokens, by name, and the model's template."""
    ways: dict[str, Way] = {}
    whole = load_chat_model(model, infer_dtype="float32", use_cpu=True)
    for kind in [each for each in ("f32", "bf16") if each in kinds]:
        chat = whole if kind == "f32" else load_chat_model(model, infer_dtype=DTYPES[kind], use_cpu=True)
        ways[f"generate {kind}"] = lambda prompts, count, held=chat: plainly(held.model, prompts, count)
        ways[f"burnish {kind}"] = lambda prompts, count, held=chat: ours(held.model, prompts, count)
    if not is_installed():
        print("llama.cpp is not installed (pip install 'burnish[llamacpp]'): its lines are left out")
        return ways, whole.template
    words = vocabulary(whole.template.tokenizer, whole.model.get_input_embeddings().weight.shape[0])
    for kind in kinds:
        file = folder / f"{kind}.gguf"
        write_gguf(whole.model, words, whole.template.tokenizer, whole.template, file, kind, name=model)
        window = 256 + tokens
        server = start_llamacpp(file, window=window, slots=slots, threads=torch.get_num_threads(), cpu=True).server
        ways[f"llama.cpp {kind}"] = lambda prompts, count, held=server: theirs(held, prompts, count)
    return ways, whole.template


def measure(
    ways: dict[str, Way], prompts: Sequence[list[int]], tokens: int, rounds: int
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Tokens per second of each way, the median of `rounds` turns after one to warm up, and what it made."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    made = {name: way(prompts, tokens) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way(prompts, tokens)
            times[name].append(time.perf_counter() - started)
    return {name: tokens * len(prompts) / statistics.median(taken) for name, taken in times.items()}, made


def show(streams: int, speeds: dict[str, float]) -> None:
    """Tokens per second, and Burnish's share of those of the others in the same numbers."""
    print(f"\n{streams} stream{'s' if streams > 1 else ''}")
    for name, speed in speeds.items():
        line = f"  {name:16} {speed:7.1f} tokens/s"
        if name.startswith("burnish"):
            kind = name.split()[1]
            others = [each for each in speeds if not each.startswith("burnish")]
            same = [each for each in others if each.endswith(kind) or each.endswith("q8_0")]
            line += "".join(f" · {speed / speeds[each]:.2f}× {each}" for each in same)
        print(line)


def equal_rows(made: dict[str, list[Any]], template: Any) -> str:
    """How many answers of the others are Burnish's own, in float32."""
    if "burnish f32" not in made:
        return "not measured"
    own = made["burnish f32"]
    texts = [template.decode(ids, special=True) for ids in own]
    found = []
    for name, wanted in (("generate f32", own), ("llama.cpp f32", texts)):
        if name in made:
            same = sum(one == other for one, other in zip(made[name], wanted, strict=True))
            found.append(f"{same} of {len(own)} answers as by {name.split()[0]}")
    return ", ".join(found)


def plainly(model: Any, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """`model.generate` over a batch that is padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return out[:, width:].tolist()


def ours(model: Any, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The engine as the server steps it, with a slot for each stream."""
    engine = Engine(model, slots=len(prompts))
    made: dict[int, list[int]] = {
        engine.submit(Request(tuple(prompt), frozenset(), Sampling(max_new_tokens=tokens))): [] for prompt in prompts
    }
    while engine.busy:
        for event in engine.step():
            made[event.request].append(event.token)  # type: ignore[arg-type]
    return list(made.values())


def theirs(server: Any, prompts: Sequence[list[int]], tokens: int) -> list[str]:
    """llama.cpp, each stream asked from a thread of its own."""

    def ask(prompt: list[int]) -> str:
        greedy = {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1, "ignore_eos": True, "cache_prompt": False}
        done = server.handle_completions({"prompt": prompt, "n_predict": tokens, "special": True, **greedy})
        assert done["usage"]["completion_tokens"] == tokens, done
        return str(done["choices"][0]["text"])

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(ask, prompts))


if __name__ == "__main__":
    main()
