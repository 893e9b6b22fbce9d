"""The loop: micro-batches in, weights and a record of the run out. It knows no stage and no data format.

Every loss is a sum; it is divided once, by the supervised tokens of all micro-batches on all ranks, so that how a
global batch is cut into micro-batches does not change the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from burnish import log
from burnish.batch.collate import Batch
from burnish.batch.plan import BatchPlan
from burnish.errors import BurnishError, Interrupted
from burnish.losses import LossSum
from burnish.runs.memory import rss_mb
from burnish.train.forward import as_floats
from burnish.train.interrupt import StopRequest
from burnish.train.optimizer import MasterAdamW
from burnish.train.state import Progress
from burnish.train.stream import StreamPlan

MakeBatch = Callable[[Sequence[int]], Batch]


@dataclass(frozen=True)
class LoopOptions:
    """Plain numbers that steer the loop. All `_steps` are optimizer steps; 0 means never."""

    total_steps: int
    max_grad_norm: float = 1.0
    logging_steps: int = 10
    eval_steps: int = 0
    save_steps: int = 0
    scales_gradients: bool = False  # fp16: the scaler skips steps with infinite gradients by itself


@dataclass
class Hooks:
    """What the loop calls: rows for metrics.jsonl, and the writing of checkpoints."""

    on_row: Callable[[dict[str, Any]], None] = lambda _: None
    save: Callable[[Progress, bool], Path | None] = lambda *_: None  # the flag: a stop was asked for
    callbacks: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)


class Loop:
    """Runs optimizer steps from `progress.step` to the end.

    Args:
        accelerator: accelerate's engine; `module` and `optimizer` are already prepared by it.
        module: called with a Batch, returns a LossSum.
        raw_optimizer: the optimizer behind accelerate's wrapper.
        rate: finished steps → learning rate.
        train_batch / eval_batch: sample numbers → Batch.
    """

    def __init__(
        self,
        accelerator: Any,
        module: Any,
        optimizer: Any,
        raw_optimizer: MasterAdamW,
        plan: BatchPlan | StreamPlan,
        train_batch: MakeBatch,
        rate: Callable[[int], float],
        options: LoopOptions,
        hooks: Hooks,
        progress: Progress,
        eval_sets: dict[str, tuple[BatchPlan, MakeBatch]] | None = None,
    ) -> None:
        self.accelerator, self.module, self.optimizer = accelerator, module, optimizer
        self.raw_optimizer, self.plan, self.train_batch = raw_optimizer, plan, train_batch
        self.rate, self.options, self.hooks, self.progress = rate, options, hooks, progress
        self.eval_sets = eval_sets or {}
        self.last_eval: dict[str, float] = {}
        self._pending: dict[str, Any] = {}

    # -- one step -----------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimizer step. Returns loss (mean nats a supervised token), grad_norm, learning_rate and counts."""
        accelerator, progress = self.accelerator, self.progress
        micro = [
            (numbers, self.train_batch(numbers).to(accelerator.device)) if numbers else (numbers, None)
            for numbers in self.plan.step(progress.step, accelerator.process_index)
        ]
        own = sum(float(batch.loss_weights.sum()) for _, batch in micro if batch is not None)
        figures = torch.tensor(
            [own, sum(len(n) for n, _ in micro), sum(b.tokens for _, b in micro if b is not None)],
            dtype=torch.float64,
        )
        everywhere, samples, tokens = self._sum(figures)
        learning_rate = self.rate(progress.step)
        for group in self.raw_optimizer.param_groups:
            group["lr"] = learning_rate
        total = 0.0
        for place, (numbers, batch) in enumerate(micro):
            last = place == len(micro) - 1
            sync = nullcontext() if last else accelerator.no_sync(self.module)
            with sync:
                loss = self._loss(batch)
                # DDP averages gradients over ranks; times their number, the division is by all tokens everywhere.
                accelerator.backward(loss.total * (accelerator.num_processes / max(everywhere, 1e-12)))
            value, _ = as_floats(loss)
            if not math.isfinite(value):
                raise self._not_finite(numbers, value)
            total += value
        mean = self._sum(torch.tensor([total], dtype=torch.float64))[0] / max(everywhere, 1e-12)
        norm = accelerator.clip_grad_norm_(self.module.parameters(), self.options.max_grad_norm or float("inf"))
        if norm is not None and not self.options.scales_gradients and not math.isfinite(float(norm)):
            raise self._not_finite([n for numbers, _ in micro for n in numbers], float(norm), "gradient norm")
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.samples += int(samples)
        progress.tokens += int(tokens)
        progress.supervised_tokens += round(everywhere)
        return {
            "loss": mean,
            "grad_norm": float(norm) if norm is not None else 0.0,
            "learning_rate": learning_rate,
            "tokens": tokens,
        }

    def _loss(self, batch: Batch | None) -> LossSum:
        if batch is not None:
            return self.module(batch)
        # A rank without rows still takes part in the gradient exchange, with a loss of nothing.
        stand_in = self.train_batch([0]).to(self.accelerator.device)
        loss = self.module(stand_in)
        return LossSum(loss.total * 0.0, loss.count * 0.0)

    def _sum(self, figures: torch.Tensor) -> list[float]:
        if self.accelerator.num_processes == 1:
            return figures.tolist()
        return self.accelerator.reduce(figures.double().to(self.accelerator.device), reduction="sum").tolist()

    # -- the run ------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> None:
        """Train to the end. Raises Interrupted after saving, when `stop` was set."""
        options, progress = self.options, self.progress
        with log.progress("training", options.total_steps, done=progress.step) as bar:
            while progress.step < options.total_steps:
                started = time.perf_counter()
                figures = self.step()
                self._count(figures, time.perf_counter() - started)
                step = progress.step
                if self._due(options.eval_steps) and self.eval_sets:
                    self.evaluate()
                if self._due(options.logging_steps) or self._pending or step == options.total_steps:
                    self._write_row(figures)
                bar.advance(1, loss=f"{figures['loss']:.4f}", **self._speed())
                stopping = bool(self._any(stop.asked)) and step < options.total_steps
                if self._due(options.save_steps) or stopping:
                    progress.stream = self.plan.position(progress.step)
                    saved = self.hooks.save(progress, stopping)
                    if stopping:
                        raise Interrupted(str(saved) if saved else None)

    def evaluate(self) -> dict[str, float]:
        """Mean loss of each eval set; lands in the next row of metrics as eval_loss or eval_NAME_loss."""
        self.module.eval()
        started = time.perf_counter()
        results: dict[str, float] = {}
        with torch.no_grad():
            for name, (plan, make) in self.eval_sets.items():
                sums = torch.zeros(2, dtype=torch.float64)
                for step in range(plan.steps_an_epoch):
                    for numbers in plan.step(step, self.accelerator.process_index):
                        # Shards are gathered from all ranks, so one without rows runs a stand-in.
                        loss = self.module(make(numbers or [0]).to(self.accelerator.device))
                        if numbers:
                            sums += torch.tensor(as_floats(loss), dtype=torch.float64)
                total, count = self._sum(sums)
                results["eval_loss" if not name else f"eval_{name}_loss"] = total / max(count, 1e-12)
        self.module.train()
        self.last_eval = results
        self._pending = {**results, "eval_runtime_s": round(time.perf_counter() - started, 3)}
        return results

    def _count(self, figures: dict[str, float], seconds: float) -> None:
        progress = self.progress
        progress.elapsed_s += seconds
        progress.loss_sum += figures["loss"]
        progress.window_loss += figures["loss"]
        progress.window_steps += 1
        progress.window_tokens += int(figures["tokens"])
        progress.window_s += seconds

    def _write_row(self, figures: dict[str, float]) -> None:
        progress = self.progress
        row = {
            "step": progress.step,
            "epoch": round(self.plan.epoch_at(progress.step), 4),
            "loss": progress.window_loss / max(progress.window_steps, 1),
            "learning_rate": figures["learning_rate"],
            "grad_norm": figures["grad_norm"],
            "tokens": progress.tokens,
            "supervised_tokens": progress.supervised_tokens,
            "tokens_per_second": round(progress.window_tokens / max(progress.window_s, 1e-9), 1),
            "elapsed_s": round(progress.elapsed_s, 3),
            "rss_mb": round(rss_mb(), 1),
            **self._pending,
        }
        self._pending = {}
        progress.window_loss, progress.window_steps = 0.0, 0
        progress.window_tokens, progress.window_s = 0, 0.0
        if self.accelerator.is_main_process:
            self.hooks.on_row(row)
            for callback in self.hooks.callbacks:
                callback(row)

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _any(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        return self._sum(torch.tensor([float(flag)]))[0] > 0

    def _speed(self) -> dict[str, str]:
        progress = self.progress
        speed = progress.tokens / max(progress.elapsed_s, 1e-9)
        return {"tok/s": f"{speed:.0f}", "MB": f"{rss_mb():.0f}"}

    def _not_finite(self, numbers: Sequence[int], value: float, what: str = "loss") -> BurnishError:
        return BurnishError(
            f"the {what} became {value} at step {self.progress.step + 1}",
            at=f"samples {', '.join(map(str, numbers))}",
            fix="lower learning_rate, or look at these samples with `burnish data inspect`; "
            "the last checkpoint is from before",
        )
