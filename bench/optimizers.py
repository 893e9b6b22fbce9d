"""How long each optimizer's step takes, and how much it remembers, on tensors with the shapes of SmolLM2-135M.

usage: python bench/optimizers.py [--what lora|full] [--steps 5] [--dtype bfloat16|float32] [NAME …]

No model is loaded: parameters and gradients are random. `ratio` is the time over that of adamw_torch in the same run,
each the fastest of its steps; `bytes` counts what a checkpoint holds for each trained weight, float32 copies included.
Machines are noisy: only the ratio counts, and only within one run.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from burnish.train.optimizers import OptimizerOptions, build_optimizer

LAYERS, WIDTH, KEYS, INNER, VOCABULARY, RANK = 30, 576, 192, 1536, 49152, 8
NAMES = ("adamw_torch_fused", "lion", "adafactor", "adam_mini", "muon", "sgd", "adagrad", "rmsprop")
LINEAR = {
    "q_proj": (WIDTH, WIDTH),
    "k_proj": (KEYS, WIDTH),
    "v_proj": (KEYS, WIDTH),
    "o_proj": (WIDTH, WIDTH),
    "gate_proj": (INNER, WIDTH),
    "up_proj": (INNER, WIDTH),
    "down_proj": (WIDTH, INNER),
}


def shaped(what: str, dtype: torch.dtype) -> nn.Module:
    """A module with the trained tensors of a LoRA run (420) or of full training (272), and nothing else."""
    model = nn.Module()
    if what == "full":
        model.embed = nn.Embedding(VOCABULARY, WIDTH)
        model.norm = nn.LayerNorm(WIDTH, bias=False)
    for number in range(LAYERS):
        layer = nn.Module()
        model.add_module(f"layer{number}", layer)
        for name, (out, into) in LINEAR.items():
            shapes = {"lora_A": (RANK, into), "lora_B": (out, RANK)} if what == "lora" else {"weight": (out, into)}
            part = nn.Module()
            layer.add_module(name, part)
            for key, shape in shapes.items():
                part.register_parameter(key, nn.Parameter(0.02 * torch.randn(shape)))
        if what == "full":
            layer.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
    return model.to(dtype)


def measure(name: str, what: str, steps: int, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of the fastest step after the first, and bytes of state a trained weight."""
    torch.manual_seed(0)
    model = shaped(what, dtype)
    optimizer = build_optimizer(model, OptimizerOptions(name=name, learning_rate=1e-5))
    times = []
    for _ in range(steps + 1):
        for parameter in model.parameters():
            parameter.grad = 0.01 * torch.randn_like(parameter)
        started = time.perf_counter()
        optimizer.step()
        times.append(time.perf_counter() - started)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return min(times[1:]), sum(t.numel() * t.element_size() for t in optimizer.tensors().values()) / weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--what", choices=("lora", "full"), default="lora")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    asked = parser.parse_args()
    base = 0.0
    print(f"{asked.what}, {asked.dtype}, {torch.get_num_threads()} threads\n{'optim':20} {'ms':>8} {'ratio':>6} bytes")
    for name in dict.fromkeys(("adamw_torch", *asked.names)):
        seconds, size = measure(name, asked.what, asked.steps, getattr(torch, asked.dtype))
        base = base or seconds
        print(f"{name:20} {seconds * 1000:8.1f} {seconds / base:6.2f} {size:.2f}", flush=True)


if __name__ == "__main__":
    main()
