"""The training step: tokens a second against the plain one, where its time goes, and what length costs; in one run.

usage: python bench/training_step.py [--model DIR_OR_NAME] [--rounds 3] [--batch 4] [--part PART …]

All parts train LoRA rank 8 on all linear layers, in the number format that suits this machine.
speed: the plain step (a padded batch, all logits, the layers of transformers and PEFT), the same rows packed with
  logits only where there are labels, and that with Burnish's kernels; and which share that is of what matrix products
  alone would allow, measured between the rounds.
profile: the share of each kind of operation in the last of them.
lengths: time a token and the memory that activations take, for one document of 128 to 4096 tokens.
scaling: tokens a second of the step with kernels, for 1, 2, 4 … threads and 1, 4 and 16 rows a step.
Machines are noisy: only ratios count, and only within one run. On a busy machine: --clock cpu, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from burnish.batch.collate import collate_packed, collate_padded
from burnish.batch.truncation import Limits, fit
from burnish.data.load import load_samples
from burnish.kernels.attention import packed_rows
from burnish.model.adapter import attach_lora
from burnish.model.fused import fused_layers
from burnish.model.load import load_model
from burnish.model.precision import choose_device, choose_precision
from burnish.model.source import find_model
from burnish.runs.memory import peak_rss_mb
from burnish.template import Example, load_template
from burnish.train.forward import SupervisedLoss

DATA = Path(__file__).resolve().parents[1] / "examples" / "data"
FLOP_A_WEIGHT = 4
"""Of a token under LoRA: a product forward and one back, a multiplication and an addition each."""
PARTS = ("speed", "profile", "lengths", "scaling")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "attention": ("_Documents", "flash_attention", "efficient_attention"),
    "element by element": ("mul", "add", "silu", "sub", "div", "exp", "neg", "pow", "rsqrt", "addcmul"),
    "sums and norms": ("sum", "norm", "mean", "amax", "logsumexp", "vecdot", "argmax"),
    "copies and memory": ("copy", "cat", "fill", "empty", "clone", "zero", "index", "gather", "scatter", "split"),
}


def plain_step(model: Any, examples: list[Example]) -> None:
    """What a usual trainer does: pad, compute all logits, shift, ignore -100."""
    batch = collate_padded(examples)
    labels = torch.full_like(batch.input_ids, -100)
    for row, example in enumerate(examples):
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    model(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=batch.attention_mask.to(model.device),
        labels=labels.to(model.device),
        use_cache=False,
    ).loss.backward()
    model.zero_grad()


def burnish_step(model: Any, examples: list[Example]) -> None:
    """The same rows, packed, with logits at supervised places only."""
    loss = SupervisedLoss(model, packed=True)(collate_packed(examples).to(model.device))
    (loss.total / loss.count).backward()
    model.zero_grad()


@contextmanager
def way(model: Any, name: str) -> Iterator[Callable[[Any, list[Example]], None]]:
    """The step of a name, in the state of the model that it needs."""
    if name == "plain":
        yield plain_step
        return
    with packed_rows(model.get_base_model()):
        if name == "packed":
            yield burnish_step
            return
        with fused_layers(model):
            yield burnish_step


def measure_speed(model: Any, batches: list[list[Example]], rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Real tokens, padding left out, a second: medians over rounds in turn."""
    rates: dict[str, list[float]] = {"plain": [], "packed": [], "kernels": []}
    products: list[float] = []
    tokens = sum(len(example.input_ids) for batch in batches for example in batch)
    for number in range(rounds + 1):
        for name, found in rates.items():
            with way(model, name) as step:
                started = clock()
                for examples in batches:
                    step(model, examples)
            if number:  # the first round warms up
                found.append(tokens / (clock() - started))
        products.append(matrix_rate(model, tokens // len(batches), clock))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    limit = statistics.median(products)
    head = model.get_base_model().get_output_embeddings().weight.numel()
    # The small products of adapters are no work that must be done.
    base = [one for name, one in model.named_parameters() if one.ndim == 2 and "lora_" not in name]
    inside = sum(one.numel() for one in base) - head
    labels = sum(label != -100 for batch in batches for example in batch for label in example.labels)
    least = FLOP_A_WEIGHT * (inside + head * labels / tokens)  # a token: the head is for labels only
    return {
        "matrix_products_gflops": round(limit / 1e9),
        "share_of_the_matrix_limit": round(least * medians["kernels"] / limit, 2),
        "tokens_per_second": {name: round(rate, 1) for name, rate in medians.items()},
        "ratio_to_plain": {name: round(rate / medians["plain"], 2) for name, rate in medians.items()},
    }


def matrix_rate(model: Any, tokens: int, clock: Callable[[], float]) -> float:
    """FLOP a second of the largest product of a layer, with as many rows as a step has tokens."""
    vocabulary = model.get_base_model().get_input_embeddings().weight.shape[0]
    matrices = [one for one in model.parameters() if one.ndim == 2 and one.shape[0] != vocabulary]
    widest = max(matrices, key=torch.Tensor.numel)
    inputs = torch.randn(tokens, widest.shape[1], dtype=widest.dtype, device=widest.device)
    with torch.no_grad():
        inputs @ widest.T
        started = clock()
        for _ in range(30):
            inputs @ widest.T
        return 30 * 2 * tokens * widest.numel() / (clock() - started)


def measure_parts(model: Any, examples: list[Example]) -> dict[str, float]:
    """The share of each kind of operation in one step with kernels, by the profiler's own time."""
    from torch.profiler import ProfilerActivity, profile

    with way(model, "kernels") as step:
        step(model, examples)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            step(model, examples)
    shares: dict[str, float] = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in seen.key_averages():
        kind = next(
            (
                kind
                for kind, marks in KINDS.items()
                if (event.key in marks if kind == "matrix products" else any(mark in event.key for mark in marks))
            ),
            "the rest",
        )
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: round(spent / total, 3) for kind, spent in shares.items()}


def measure_lengths(
    model: Any, lengths: list[int], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Of one document of each length: microseconds a token, and the activations kept for the backward pass in KB."""
    vocabulary = model.config.get_text_config().vocab_size
    table: dict[str, dict[str, float]] = {}
    for length in lengths:
        ids = torch.randint(5, vocabulary, (length,)).tolist()
        half = length // 2
        example = Example(ids, [-100] * half + ids[half:], [0.0] * half + [1.0] * (length - half))
        row: dict[str, float] = {}
        for name in ("packed", "kernels"):
            with way(model, name) as step:
                spent = []
                for _ in range(rounds):
                    started = clock()
                    step(model, [example])
                    spent.append(clock() - started)
                row[f"{name}_us_per_token"] = round(1e6 * statistics.median(spent) / length)
                row[f"{name}_kb_per_token"] = round(kept_bytes(model, example) / length / 1e3)
        table[str(length)] = row
    return table


def measure_scaling(model: Any, examples: list[Example], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second by the clock: threads → rows a step → rate, in turn, the best of all rounds."""
    most = torch.get_num_threads()
    counts = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
    table: dict[str, dict[str, float]] = {f"{threads} threads": {} for threads in counts}
    with way(model, "kernels") as step:
        step(model, examples[:1])
        for _ in range(rounds):
            for threads, row in zip(counts, table.values(), strict=True):
                torch.set_num_threads(threads)
                for size in (1, 4, 16):
                    some = examples[:16]
                    started = time.perf_counter()
                    for start in range(0, len(some), size):
                        step(model, some[start : start + size])
                    rate = sum(len(each.input_ids) for each in some) / (time.perf_counter() - started)
                    row[f"{size} rows"] = max(row.get(f"{size} rows", 0.0), round(rate, 1))
    torch.set_num_threads(most)
    return table


def kept_bytes(model: Any, example: Example) -> int:
    """The memory of all tensors that one forward pass keeps for its backward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph that holds it, for good

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = SupervisedLoss(model, packed=True)(collate_packed([example]).to(model.device))
    del loss
    gc.collect()
    return sum(sizes.values())


def main() -> None:
    """Run the parts and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--dataset", default="orders")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["speed", "profile"])
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    device = choose_device()
    precision = choose_precision(device)
    loaded = load_model(find_model(arguments.model, print), dtype=precision.dtype, device=device)
    template = load_template(loaded.tokenizer, extra_stop_ids=loaded.stop_ids)
    samples = load_samples([arguments.dataset], arguments.data, max_samples=4 * arguments.batch).samples
    examples = [fit(template.pieces(sample.record), Limits(1024)).example for sample in samples]
    kept = [example for example in examples if example is not None]
    batches = [kept[start : start + arguments.batch] for start in range(0, len(kept), arguments.batch)]
    model, _ = attach_lora(loaded.model, rank=8)
    model.train()
    found: dict[str, Any] = {"precision": precision.name, "threads": torch.get_num_threads()}
    if "speed" in arguments.part:
        found |= measure_speed(model, batches, arguments.rounds, clock)
    if "profile" in arguments.part:
        found["share_of_the_step"] = measure_parts(model, batches[0])
    if "lengths" in arguments.part:
        found["by_length"] = measure_lengths(model, arguments.lengths, arguments.rounds, clock)
    if "scaling" in arguments.part:
        found["scaling"] = measure_scaling(model, kept, arguments.rounds)
    found["peak_rss_mb"] = round(peak_rss_mb())
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
