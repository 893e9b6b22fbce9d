"""The loop: micro-batches in, weights and a record of the run out. It knows no stage and no data format.

Every loss is a sum; it is divided once, by what it counts (supervised tokens, or pairs) in all micro-batches on all
ranks, so that how a global batch is cut into micro-batches does not change the gradient.
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
from burnish.batch.plan import Plan
from burnish.errors import BurnishError, Interrupted
from burnish.losses import LossSum
from burnish.runs.memory import rss_mb
from burnish.train.callbacks import Callbacks, Run
from burnish.train.evaluation import Best, EvalSets, Evaluate, MakeBatch, evaluate
from burnish.train.figures import Sums, add, means, merge_over_ranks, read
from burnish.train.heap import give_back
from burnish.train.interrupt import StopRequest
from burnish.train.optimizers import MasterOptimizer
from burnish.train.state import Progress

_LONG_S = 0.5  # a micro-batch of so many seconds can pay for giving memory back


@dataclass(frozen=True)
class LoopOptions:
    """Plain numbers that steer the loop. All `_steps` are optimizer steps; 0 means never.

    `evaluates_first`: before the first step. `evaluates_last`: after the last one, whatever `eval_steps` says.
    `eval_delay_steps`: no evaluation up to and with this step, but for the last. `saves_last`: a checkpoint after the
    last step too, whatever `save_steps` says.
    """

    total_steps: int
    max_grad_norm: float = 1.0
    logging_steps: int = 10
    logs_first_step: bool = False
    eval_steps: int = 0
    eval_delay_steps: int = 0
    evaluates_first: bool = False
    evaluates_last: bool = True
    save_steps: int = 0
    saves_last: bool = False
    best: Best = field(default_factory=Best)
    unit: int = 1  # examples a sample is
    scales_gradients: bool = False  # fp16: the scaler skips steps with infinite gradients by itself


@dataclass
class Hooks:
    """What the loop calls: rows for metrics.jsonl, the writing of checkpoints, and words for sample numbers."""

    on_row: Callable[[dict[str, Any]], None] = lambda _: None
    save: Callable[[Progress, bool], Path | None] = lambda *_: None  # the flag: a stop was asked for
    describe: Callable[[Sequence[int]], str] = lambda numbers: f"samples {', '.join(map(str, numbers))}"
    callbacks: Callbacks = field(default_factory=lambda: Callbacks(()))
    before_step: Callable[[int], Sums] = lambda _: {}  # finished steps → figures of what was made for the next one
    evaluate: Evaluate | None = None  # in the place of the mean loss of the eval sets


class Loop:
    """Runs optimizer steps from `progress.step` to the end.

    Args:
        accelerator: accelerate's engine; `module` and `optimizer` are already prepared by it.
        module: called with a Batch, returns a LossSum.
        raw_optimizer: the optimizer behind accelerate's wrapper.
        rate: finished steps → learning rate.
        train_batch / eval_sets: sample numbers → Batch.
        run: what callbacks see.
    """

    def __init__(
        self,
        accelerator: Any,
        module: Any,
        optimizer: Any,
        raw_optimizer: MasterOptimizer,
        plan: Plan,
        train_batch: MakeBatch,
        rate: Callable[[int], float],
        options: LoopOptions,
        hooks: Hooks,
        progress: Progress,
        eval_sets: EvalSets | None = None,
        run: Run | None = None,
    ) -> None:
        self.accelerator, self.module, self.optimizer = accelerator, module, optimizer
        self.raw_optimizer, self.plan, self.train_batch = raw_optimizer, plan, train_batch
        self.rate, self.options, self.hooks, self.progress = rate, options, hooks, progress
        self.eval_sets = eval_sets or {}
        self.evaluates = False  # what it is at just now, for errors
        self._seen = run or Run(module, None, {}, Path(), options.total_steps)
        self._pending: dict[str, Any] = {}

    @property
    def can_evaluate(self) -> bool:
        """Whether something is held out."""
        return bool(self.eval_sets or self.hooks.evaluate)

    # -- one step -----------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimizer step. Returns loss (mean nats a supervised token), grad_norm, learning_rate and tokens."""
        accelerator, progress = self.accelerator, self.progress
        sums: Sums = self.hooks.before_step(progress.step)
        micro = [
            (numbers, self.train_batch(numbers).to(accelerator.device)) if numbers else (numbers, None)
            for numbers in self.plan.step(progress.step, accelerator.process_index)
        ]
        batches = [batch for _, batch in micro if batch is not None]
        figures = torch.tensor(
            [
                sum(batch.loss_count for batch in batches),
                sum(float(batch.loss_weights.sum()) for batch in batches),
                sum(len(numbers) for numbers, _ in micro) // self.options.unit,
                sum(batch.tokens for batch in batches),
            ],
            dtype=torch.float64,
        )
        everywhere, supervised, samples, tokens = self._sum(figures)
        learning_rate = self.rate(progress.step)
        for group in self.raw_optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate_factor", 1.0)
        sums["loss"] = [0.0, 0.0]
        for place, (_, batch) in enumerate(micro if everywhere else ()):
            last = place == len(micro) - 1
            sync = nullcontext() if last else accelerator.no_sync(self.module)
            started = time.perf_counter()
            with sync:
                loss = self._loss(batch)
                # DDP averages gradients over ranks; times their number, the division is by all tokens everywhere.
                accelerator.backward(loss.total * (accelerator.num_processes / max(everywhere, 1e-12)))
            add(sums, read(loss))
            if time.perf_counter() - started > _LONG_S:
                give_back(accelerator.device)
        mean = self._sum(torch.tensor([sums["loss"][0]], dtype=torch.float64))[0] / max(everywhere, 1e-12)
        if not math.isfinite(mean):
            raise self._not_finite([numbers for numbers, _ in micro], mean)
        norm = accelerator.clip_grad_norm_(self.module.parameters(), self.options.max_grad_norm or float("inf"))
        if norm is not None and not self.options.scales_gradients and not math.isfinite(float(norm)):
            raise self._not_finite([numbers for numbers, _ in micro], float(norm), "gradient norm")
        if everywhere:  # else nothing was learnt, and momentum alone shall not move the weights
            self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.samples += int(samples)
        progress.tokens += int(tokens)
        progress.supervised_tokens += round(supervised)
        del sums["loss"]
        add(progress.window_figures, sums)
        reward, judged = sums.get("reward", (0.0, 0.0))
        return {
            **({"reward": reward / judged} if judged else {}),
            "loss": mean,
            "grad_norm": float(norm) if norm is not None else 0.0,
            "learning_rate": learning_rate,
            "tokens": tokens,
        }

    def _loss(self, batch: Batch | None) -> LossSum:
        if batch is not None:
            return self.module(batch)
        # A rank without rows still takes part in the gradient exchange, with a loss of nothing.
        loss = self.module(self.train_batch(self.plan.stand_in).to(self.accelerator.device))
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
            self._tell("start")
            if options.evaluates_first and self.can_evaluate and not progress.step:
                self.evaluate(bar)
                self._write_row({"step": 0, "epoch": 0.0})
            while progress.step < options.total_steps and not progress.ended:
                started = time.perf_counter()
                figures = self.step()
                self._count(figures, time.perf_counter() - started)
                shown = {"reward": f"{figures['reward']:.3f}"} if "reward" in figures else {}
                bar.advance(1, loss=f"{figures['loss']:.4f}", **shown, **self._speed())
                self._after_step(figures, stop, bar)
            self._tell("end")

    def _after_step(self, figures: dict[str, float], stop: StopRequest, bar: log.Bar) -> None:
        """Callbacks, evaluation, the row of metrics and the checkpoint, in this order: each sees those before it."""
        options, progress = self.options, self.progress
        self._tell("step", loss=figures["loss"])
        evaluates, saves, ends = self._wishes()
        last = progress.step == options.total_steps or ends
        on_time = self._due(options.eval_steps) and progress.step > options.eval_delay_steps
        better = False
        if self.can_evaluate and (on_time or evaluates or (last and options.evaluates_last)):
            better = options.best.judge(self.evaluate(bar), progress)
            progress.ended = progress.ended or options.best.patience_is_over(progress)
        last = last or bool(progress.ended)
        first = options.logs_first_step and progress.step == 1
        if self._due(options.logging_steps) or self._pending or first or last:
            self._write_row(self._training_row(figures))
        [asked] = self._anywhere([bool(stop)])
        stopping = asked and not last
        due = self._due(options.save_steps) or (last and options.saves_last)
        if due or stopping or saves or (better and options.best.saves):
            self._save(stopping)

    def evaluate(self, bar: log.Bar | None = None) -> dict[str, float]:
        """Mean loss of each eval set, or mean reward; lands in the next row of metrics as eval_loss or eval_reward."""
        started = time.perf_counter()

        def tick(done: int, total: int) -> None:
            if bar is not None:
                bar.advance(0, evaluating=f"{done}/{total}")

        self.evaluates = True
        if self.hooks.evaluate:
            results = self.hooks.evaluate(tick)
        else:
            results = evaluate(self.accelerator, self.module, self.eval_sets, tick)
        self.evaluates = False
        self.progress.last_eval = results
        self._pending = {**results, "eval_runtime_s": round(time.perf_counter() - started, 3)}
        self._tell("evaluate", results)
        return results

    def write_evaluation(self) -> None:
        """A row of metrics for an evaluation without training."""
        self._write_row({"step": self.progress.step, "epoch": round(self.plan.epoch_at(self.progress.step), 4)})

    def _save(self, stopping: bool) -> None:
        progress = self.progress
        progress.stream = self.plan.position(progress.step)
        merged = merge_over_ranks(progress.window_figures, self.accelerator)
        progress.window_figures = merged if self.accelerator.is_main_process else {}
        saved = self.hooks.save(progress, stopping)
        if saved is not None:
            self._tell("save", saved)
        if stopping:
            raise Interrupted(str(saved) if saved else None)

    def _wishes(self) -> list[bool]:
        """[evaluate, save, end]: what callbacks want after this step, on any rank."""
        wishes = self._seen.wishes
        progress = self.progress
        progress.ended = wishes.get("stop", progress.ended)
        flags = self._anywhere([name in wishes for name in ("evaluate", "save", "stop")])
        wishes.clear()
        if flags[2]:
            progress.ended = progress.ended or "a callback ended the run"
        return flags

    def _anywhere(self, flags: Sequence[bool]) -> list[bool]:
        """Which flags are set on any rank."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        return [total > 0 for total in self._sum(torch.tensor([float(flag) for flag in flags]))]

    def _tell(self, moment: str, *more: Any, loss: float | None = None) -> None:
        seen = self._seen
        seen.step, seen.epoch = self.progress.step, self.plan.epoch_at(self.progress.step)
        seen.loss = seen.loss if loss is None else loss
        self.hooks.callbacks.tell(moment, seen, *more)

    def _count(self, figures: dict[str, float], seconds: float) -> None:
        progress = self.progress
        progress.elapsed_s += seconds
        progress.loss_sum += figures["loss"]
        progress.window_loss += figures["loss"]
        progress.window_steps += 1
        progress.window_tokens += int(figures["tokens"])
        progress.window_s += seconds

    def _training_row(self, figures: dict[str, float]) -> dict[str, Any]:
        """The row of metrics for the steps since the last one, which it ends."""
        progress = self.progress
        sums = merge_over_ranks(progress.window_figures, self.accelerator)
        row = {
            "step": progress.step,
            "epoch": round(self.plan.epoch_at(progress.step), 4),
            "loss": progress.window_loss / max(progress.window_steps, 1),
            **means(sums),
            "learning_rate": figures["learning_rate"],
            "grad_norm": figures["grad_norm"],
            "tokens": progress.tokens,
            "supervised_tokens": progress.supervised_tokens,
            "tokens_per_second": round(progress.window_tokens / max(progress.window_s, 1e-9), 1),
            "elapsed_s": round(progress.elapsed_s, 3),
            "rss_mb": round(rss_mb(), 1),
        }
        progress.window_figures = {}
        progress.window_loss, progress.window_steps = 0.0, 0
        progress.window_tokens, progress.window_s = 0, 0.0
        return row

    def _write_row(self, row: dict[str, Any]) -> None:
        row = {**row, **self._pending}
        self._pending = {}
        if self.accelerator.is_main_process:
            self.hooks.on_row(row)
            self._tell("row", dict(row))

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _speed(self) -> dict[str, str]:
        progress = self.progress
        speed = progress.tokens / max(progress.elapsed_s, 1e-9)
        gpu = self.accelerator.device.type == "cuda"
        memory = torch.cuda.memory_reserved() / 2**20 if gpu else rss_mb()
        return {"tok/s": f"{speed:,.0f}", "GPU memory" if gpu else "memory": f"{memory:,.0f} MB"}

    def _not_finite(self, micro: Sequence[Sequence[int]], value: float, what: str = "loss") -> BurnishError:
        numbers = [number for part in micro for number in part]
        if self.accelerator.num_processes == 1:
            numbers = self._culprits(numbers) or numbers
        return BurnishError(
            f"the {what} became {value} at step {self.progress.step + 1}",
            at=self.hooks.describe(numbers),
            fix="lower learning_rate, or look at these samples; the last checkpoint is from before",
        )

    def _culprits(self, numbers: Sequence[int]) -> list[int]:
        """The samples whose loss is not finite on their own."""
        found: list[int] = []
        with torch.no_grad():
            for start in range(0, len(numbers), self.options.unit):
                sample = numbers[start : start + self.options.unit]
                loss = self.module(self.train_batch(sample).to(self.accelerator.device))
                if not math.isfinite(read(loss)["loss"][0]):
                    found += sample
        return found
