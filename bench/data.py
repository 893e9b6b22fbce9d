"""How fast data becomes tokens and labels, and how much memory that takes.

    python bench/data.py [--rows 20000] [--model smollm2-135m-instruct] [--memory 100000 1000000]

Prints rows/s and tokens/s of Burnish with one and two processes, and the ratio to the bare tokenizer on the same
rendered texts with the same number of threads; both by the clock, and by the time of all processors, which a busy
machine disturbs less. Rows are alpaca-like, made up on the fly from a fixed seed. With --memory, each number of rows
is prepared in a process of its own, and the peak memory of that process and of its largest worker are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORDS = [
    *("time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world"),
    *("school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place"),
    *("case", "week", "company", "system", "program", "question", "work", "government", "number", "night"),
    *("point", "home", "water", "room", "mother", "area", "money", "story", "fact", "month"),
    *("lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side"),
    *("kind", "head", "house", "service", "friend"),
]


def rows(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Made-up rows with the lengths of alpaca's: a question of 5 to 25 words, an answer of 10 to 120."""
    rng = random.Random(seed)
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(5, 25)))
        more = " ".join(rng.choices(WORDS, k=rng.randint(3, 30))) if rng.random() < 0.35 else ""
        answer = " ".join(rng.choices(WORDS, k=rng.randint(10, 120)))
        yield {"instruction": f"Explain {question}?", "input": more, "output": f"{answer}."}


def write_rows(path: Path, count: int) -> None:
    """Write made-up rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows(count):
            file.write(json.dumps(row) + "\n")


def prepare(path: Path, model: str, workers: int, template: str = "") -> dict[str, float]:
    """Prepare a file as a run does; seconds without the imports, and what came of it."""
    from burnish.config import load_settings
    from burnish.model.source import find_model
    from burnish.train.data import build_data, build_template
    from burnish.train.stages import STAGES

    values = {"model_name_or_path": model, "dataset": str(path), "preprocessing_num_workers": workers}
    chosen = {"template": template} if template else {}
    settings = load_settings({**values, **chosen, "overwrite_cache": True, "cutoff_len": 2048})
    renderer = build_template(settings, find_model(model))
    started, busy = time.perf_counter(), _busy()
    data = build_data(settings, renderer, STAGES.get("sft"))
    seconds, busy = time.perf_counter() - started, _busy() - busy
    own, worker = (resource.getrusage(who).ru_maxrss / 1e3 for who in _WHO)
    rows, tokens = len(data.train), int(data.train.lengths.sum())
    return {"seconds": seconds, "busy": busy, "rows": rows, "tokens": tokens, "peak_mb": own, "worker_mb": worker}


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _busy() -> float:
    """Seconds of processor time so far, those of workers that have ended included."""
    used = [resource.getrusage(who) for who in _WHO]
    return sum(one.ru_utime + one.ru_stime for one in used)


def bare(path: Path, model: str, name: str = "") -> tuple[float, float, int]:
    """What the tokenizer alone takes for the rendered texts, on as many threads as there are cores.

    Returns seconds by the clock, seconds of all processors, and the number of tokens.
    """
    from burnish.data.load import iter_samples
    from burnish.model.load import load_tokenizer
    from burnish.model.source import find_model
    from burnish.template import load_template

    tokenizer = load_tokenizer(find_model(model))
    template = load_template(tokenizer, name) if name else load_template(tokenizer)
    texts = [template.text(sample.record, generate=False) for sample in iter_samples([str(path)], path.parent)]
    core = template.tokenizer.backend_tokenizer
    core.encode_batch_fast(texts[:200], add_special_tokens=False)
    started, busy = time.perf_counter(), _busy()
    tokens = 0
    for start in range(0, len(texts), 1000):
        encoded = core.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False)
        tokens += sum(len(one.ids) for one in encoded)
    return time.perf_counter() - started, _busy() - busy, tokens


def in_a_child(path: Path, model: str, workers: int, cache: Path, template: str = "") -> dict[str, float]:
    """`prepare` in a process of its own. `template`: empty for the tokenizer's own."""
    command = [sys.executable, __file__, "--child", str(path), model, str(workers), template]
    done = subprocess.run(
        command, env={**os.environ, "BURNISH_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        path, model, workers, template = arguments.child
        print(json.dumps(prepare(Path(path), model, int(workers), template)))
        return
    from burnish.model.source import find_model

    model = find_model(arguments.model).location
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "rows.jsonl"
        write_rows(path, arguments.rows)
        seconds, busy, tokens = bare(path, model)
        rate = arguments.rows / seconds
        print(f"bare tokenizer     {rate:8.0f} rows/s  {tokens / seconds:9.0f} tokens/s")
        for workers in (1, 2):
            got = in_a_child(path, model, workers, folder)
            speed = got["rows"] / got["seconds"]
            print(
                f"burnish, {workers} process{'es' if workers > 1 else '  '} {speed:7.0f} rows/s  "
                f"{got['tokens'] / got['seconds']:9.0f} tokens/s  {rate / speed:.2f} × the time of the bare tokenizer, "
                f"{got['busy'] / busy:.2f} × its processor time"
            )
        for count in arguments.memory:
            write_rows(path, count)
            got = in_a_child(path, model, 2, folder)
            peaks = f"peak {got['peak_mb']:.0f} MB, largest worker {got['worker_mb']:.0f} MB"
            print(f"{count:>9} rows: {peaks}, {got['rows'] / got['seconds']:.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
