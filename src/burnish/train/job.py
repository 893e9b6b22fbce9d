"""One training run, built from settings and run to its end. Settings stop here: what is below takes plain values."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from burnish import log
from burnish.batch.collate import Layout
from burnish.batch.plan import Plan
from burnish.batch.store import Selection
from burnish.cache import cache_folder
from burnish.config import Settings
from burnish.errors import RunFolderError
from burnish.kernels.attention import packed_rows, reads_shared_prompts
from burnish.model.load import Loaded
from burnish.model.noise import EmbeddingNoise
from burnish.model.precision import choose_device, choose_precision
from burnish.model.save import without_adapter
from burnish.runs.environment import environment
from burnish.runs.folder import RunFolder, read_summary
from burnish.runs.memory import peak_rss_mb
from burnish.runs.plots import plot_loss
from burnish.runs.preference_plots import REWARDS_PLOT, plot_rewards
from burnish.template import ChatTemplate, Example
from burnish.train.bad_rows import BAD_ROWS, BadRows
from burnish.train.callbacks import Callbacks, Run
from burnish.train.data import (
    RunData,
    build_data,
    build_template,
    stream_plan,
    without_overwriting,
)
from burnish.train.engines import build_engine
from burnish.train.evaluation import EvalSets
from burnish.train.heap import keep_few_products, seldom_collected
from burnish.train.interrupt import StopRequest
from burnish.train.loop import Hooks, Loop
from burnish.train.model import build_model, model_record, own_kernels, takes_packed_rows
from burnish.train.optimizers import build_optimizer
from burnish.train.options import loop_options, optimizer_options
from burnish.train.origin import model_source
from burnish.train.plans import batch_plan, batches, datasets_of
from burnish.train.precomputed import Precomputed, precomputed
from burnish.train.reference import Reference
from burnish.train.resume import Checkpoints, Weights
from burnish.train.rollouts.prompts import StreamedPrompts
from burnish.train.rollouts.rewarding import Judge, find_judge
from burnish.train.schedule import rate_by_step, warmup_optimizer_steps
from burnish.train.stages import STAGES, Parts, RolloutParts, Stage, measured
from burnish.train.stream import StreamPlan
from burnish.train.summary import data_lines, judged_parts, model_line, reward_parts, stream_line
from burnish.train.watch import Watch


class Job:
    """The parts of one run, built in the order in which they can fail cheaply: data before weights."""

    def __init__(self, settings: Settings, output: Path, callbacks: Sequence[Any]) -> None:
        self.settings, self.folder, self.callbacks = settings, RunFolder(output), callbacks
        self.stage: Stage = STAGES.get(settings.tuning.stage)
        self.device = choose_device(settings.training.use_cpu)
        self.precision = choose_precision(
            self.device,
            bf16=settings.training.bf16,
            fp16=settings.training.fp16,
            pure_bf16=settings.tuning.pure_bf16,
        )
        self.engine = build_engine(settings, self.device, self.precision)
        self.is_main: bool = self.engine.is_main_process
        self.checkpoints = Checkpoints(settings, self.folder, self.engine, self.stage)
        self.started = _started(output) if settings.training.resume_from_checkpoint else datetime.now()
        self._packs = True
        self._judge: Judge | None = None  # of a stage that samples answers
        self.loop: Loop | None = None
        self.watch = Watch(settings, self.folder, self.is_main)

    def record(self, **parts: Any) -> None:
        """Merge parts into run.json; only the first rank writes."""
        if self.is_main:
            self.folder.update(**parts)

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Read the data, load the model, train, save; returns what run.json holds."""
        with self.watch:
            return self._run(stop)

    def _run(self, stop: StopRequest) -> dict[str, Any]:
        settings = self.settings
        keep_few_products()
        with ExitStack() as stack:
            with stop.at_once(), seldom_collected():
                loaded, template, loop = self._build(stack)
            self.loop = loop
            self.watch.go_on_after(loop.progress.step)
            started = time.perf_counter()
            before = loop.progress.elapsed_s
            if isinstance(loop.plan, StreamPlan):
                stack.callback(loop.plan.close)
            if self.checkpoints.rollouts:
                stack.callback(self.checkpoints.rollouts.close)
            if self._packs:
                stack.enter_context(packed_rows(without_adapter(loaded.model)))
            if settings.training.do_train:
                loop.run(stop)
                self._take_best(loaded, loop)
            elif loop.can_evaluate and loop.options.evaluates_last:
                with stop.at_once(), log.progress("evaluating", 1) as bar:
                    loop.evaluate(bar)
                loop.write_evaluation()
            read = None
            if isinstance(loop.plan, StreamPlan):
                read = loop.plan.summary(loop.progress.step)
            elif self.checkpoints.rollouts:
                read = self.checkpoints.rollouts.summary()
            if read is not None:
                log.say(stream_line(read))
                self.record(data=read)
        runtime = before + time.perf_counter() - started
        weights = self.engine.whole_weights(loaded.model) if settings.training.do_train else None
        if self.is_main:
            self._finish(loaded, template, loop, runtime, weights)
        self.engine.wait_for_everyone()
        return self.folder.summary()

    def _build(self, stack: ExitStack) -> tuple[Loaded, ChatTemplate, Loop]:
        """Everything before the first step: data, model, and where an earlier run stopped.

        Args:
            stack: takes the states of the model that last as long as the run.
        """
        settings = self.settings
        for line in settings.notes:
            log.note(line)
        random.seed(settings.training.seed)
        torch.manual_seed(settings.training.seed)
        assert settings.model.model_name_or_path is not None
        self._machine()
        source = model_source(settings)
        template = build_template(settings, source, self.started)
        with self.engine.processes.first_of_machine_first("data") as first:
            data = build_data(settings if first else without_overwriting(settings), template, self.stage)
        for line in data_lines(data.record()):
            log.say(line)
        if self.stage.check and isinstance(data.train, Selection):
            self.stage.check(settings, data.train.marks)
        spoken = f"template: {template.name} · " if self.stage.chats else ""
        log.say(f"{spoken}computing in {self.precision.why} · {self.device}")
        if self.engine.describe():
            log.say(self.engine.describe())
        if self.stage.rollouts:  # a mistake in a reward shows before the weights are read
            self._judge = find_judge(settings, template)
            stack.callback(self._judge.close)
        self.watch.start()
        loaded = build_model(settings, source, self.precision, self.engine.load_device)
        if self.stage.extend:
            self.stage.extend(settings, loaded)
        if self.engine.process_index:  # until here all ranks draw alike; from here on dropout differs
            torch.manual_seed(settings.training.seed + self.engine.process_index)
        record = model_record(settings, loaded, self.precision)
        log.say(model_line(record))
        machine = {**environment(self.folder.path), "processes": self.engine.num_processes}
        self.record(model=record, data=data.record(), environment=machine)
        return loaded, template, self._loop(loaded, template, data, stack)

    def _machine(self) -> None:
        """Switches of the whole process."""
        training = self.settings.training
        if training.tf32:
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
        if training.full_determinism:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for repeatable sums
            torch.use_deterministic_algorithms(True)

    def _take_best(self, loaded: Loaded, loop: Loop) -> None:
        """Put the best evaluation's weights into the model, where that is asked for."""
        progress = loop.progress
        if progress.ended:
            log.say(f"stopped after step {progress.step}: {progress.ended}")
        if not self.settings.training.load_best_model_at_end or not progress.best_step:
            return
        value = f"{loop.options.best.metric} {progress.best_value:.4f}"
        if progress.best_step != progress.step and not self.checkpoints.load_weights(loaded, progress.best_step):
            return
        log.say(f"the weights are those of step {progress.best_step}, the best by {value}")

    # -- building -----------------------------------------------------------------------------------------

    def _loop(self, loaded: Loaded, template: ChatTemplate, data: RunData, stack: ExitStack) -> Loop:
        settings, training = self.settings, self.settings.training
        self._packs = takes_packed_rows(loaded.model)
        reference = self.stage.reference(settings, loaded) if self.stage.reference else None  # before it learns
        self._packs = self._packs and (reference is None or reference.takes_packed_rows(loaded.model))
        # A reference that computes in another way than the policy would not give ln 2 at the first step.
        beside = () if reference is None or reference.model is loaded.model else (reference.model.to(self.device),)
        whole = not self.engine.cuts_weights
        stack.enter_context(own_kernels(settings, loaded.model, beside, self.device, whole=whole))
        shares = (
            self._packs and not training.neftune_noise_alpha and reads_shared_prompts(without_adapter(loaded.model))
        )
        layout = Layout(self._packs, loaded.tokenizer.pad_token_id or 0, settings.data.cutoff_len, shares)
        plan, example = self._plan(data, loaded, template, layout, reference)
        total = training.max_steps if training.max_steps > 0 else plan.steps_of(training.num_train_epochs)
        options = loop_options(settings, self.stage, self.precision, plan, total)
        known = Precomputed({})
        if reference and settings.preference.precompute_ref:
            self.engine.require_whole_weights("precompute_ref", "the weights are not on the device yet")
            eval_rows = training.per_device_eval_batch_size
            known = precomputed(reference, data, layout, self.stage, eval_rows, self.engine)
            reference = None
        progress = self.checkpoints.resume(loaded, data)
        if isinstance(plan, StreamPlan):
            if progress.stream:
                plan.seek(progress.stream, progress.step, settings.data.stream_lanes)
            else:
                plan.divide(settings.data.stream_lanes)
        rollouts = self.checkpoints.rollouts
        names, datasets = ([], None) if rollouts else datasets_of(settings, data.train, plan)
        module = self.stage.module(Parts(settings, loaded.model, self._packs, names, reference))
        if training.neftune_noise_alpha:
            EmbeddingNoise(loaded.model, training.neftune_noise_alpha).watch(module)
        module = self.engine.shard(module)
        optimizer = self.engine.build_optimizer(partial(build_optimizer, loaded.model), optimizer_options(settings))
        if self.is_main:
            self.folder.begin()  # what can be wrong with data and model was found; now room on the disk counts
        if training.do_train and progress.step < total and self.is_main:
            self.checkpoints.preflight(loaded, template, optimizer, progress.step, total, options.save_steps)
        warmup = warmup_optimizer_steps(total, training.warmup_ratio, training.warmup_steps)
        rate = rate_by_step(
            training.lr_scheduler_type, training.learning_rate, total, warmup, training.lr_scheduler_kwargs
        )
        prepared_module, prepared_optimizer = self.engine.prepare(module, optimizer)
        self.checkpoints.restore(optimizer)
        prepared_module.train()
        log.say(
            f"{total} optimizer steps of {plan.rows_a_step} {'packed rows' if settings.data.packing else 'samples'}"
            f" · {training.lr_scheduler_type} rate {training.learning_rate:g}"
            + ("" if training.lr_scheduler_type == "constant" else f", {warmup} steps of warm-up")
            + (f" · going on after step {progress.step}" if progress.step else "")
        )
        seen = Run(loaded.model, loaded.tokenizer, settings.flat(), self.folder.path, total)
        return Loop(
            self.engine,
            prepared_module,
            prepared_optimizer,
            optimizer,
            plan,
            rollouts.batch if rollouts else batches(self.stage, example, layout, datasets, known.of(data.train)),
            rate,
            options,
            Hooks(
                self.watch.row,
                lambda progress, stopping: self.checkpoints.save(loaded, template, optimizer, progress, stopping),
                rollouts.describe
                if rollouts
                else BadRows(self.folder.path / BAD_ROWS, data.train, example, loaded.tokenizer),
                Callbacks(self.callbacks, settings.tuning.callbacks),
                rollouts.prepare
                if rollouts
                else measured(self.stage, prepared_module, plan, example, layout, self.engine),
                rollouts.held_out.evaluate if rollouts and rollouts.held_out else None,
            ),
            progress,
            {} if rollouts else self._eval_sets(data, layout, known),
            seen,
        )

    def _plan(
        self, data: RunData, loaded: Loaded, template: ChatTemplate, layout: Layout, reference: Reference | None
    ) -> tuple[Plan, Callable[[int], Example]]:
        """Which samples the steps see, and the samples by their numbers."""
        settings, training = self.settings, self.settings.training
        streamed = stream_plan(settings, data, template, self.stage, self.engine) if data.train is None else None
        if self.stage.rollouts:
            prompts = StreamedPrompts(streamed, settings.data.stream_lanes) if streamed else data.train
            assert isinstance(prompts, Selection | StreamedPrompts)
            assert self._judge is not None
            held_out = {name: one for name, one in data.eval.items() if isinstance(one, Selection)}
            parts = (settings, loaded, template, prompts, layout, self.engine, reference, self.folder.path, self._judge)
            self.checkpoints.rollouts = self.stage.rollouts(RolloutParts(*parts, held_out))
            return self.checkpoints.rollouts, prompts.__getitem__
        if streamed is not None:
            return streamed, streamed.example
        assert data.train is not None
        plan = batch_plan(
            *(settings, self.stage, self.engine.num_processes, data.train),
            training.per_device_train_batch_size,
            training.gradient_accumulation_steps,
        )
        return plan, data.train.__getitem__

    def _eval_sets(self, data: RunData, layout: Layout, known: Precomputed) -> EvalSets:
        rows, found = self.settings.training.per_device_eval_batch_size, {}
        for name, held_out in data.eval.items():
            shared = self.settings, self.stage, self.engine.num_processes, held_out
            plan = batch_plan(*shared, rows, 1, shuffle=False, pack=False)
            found[name] = plan, batches(self.stage, held_out.__getitem__, layout, known=known.of(held_out))
        return found

    # -- the end ------------------------------------------------------------------------------------------

    def _finish(
        self, loaded: Loaded, template: ChatTemplate, loop: Loop, runtime: float, weights: Weights | None
    ) -> None:
        folder, progress = self.folder, loop.progress
        trained = self.settings.training.do_train
        if trained:
            self.checkpoints.write_final(loaded, template, progress.step, weights)
        rows = folder.metrics.read()
        if trained and self.settings.tuning.plot_loss:
            plot_loss(rows, folder.loss_plot_path, "Loss", cache=cache_folder())
            plot_rewards(rows, folder.path / REWARDS_PLOT, cache=cache_folder())
        train: dict[str, Any] = {
            "steps": progress.step,
            "epochs": round(loop.plan.epoch_at(progress.step), 4),
            "runtime_s": round(runtime, 3),
            "samples_per_second": round(progress.samples / max(runtime, 1e-9), 4),
            "tokens_per_second": round(progress.tokens / max(runtime, 1e-9), 2),
            "train_loss": progress.loss_sum / progress.step if progress.step else None,
            "eval_loss": progress.last_eval.get("eval_loss"),
        }
        if "eval_reward" in progress.last_eval:
            train["eval_reward"] = progress.last_eval["eval_reward"]
        if progress.best_step and loop.options.eval_steps:
            best = {"metric": loop.options.best.metric, "value": progress.best_value, "step": progress.best_step}
            train["best"] = best
        if progress.ended:
            train["ended"] = progress.ended
        gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
        folder.update(
            status="completed",
            train=train,
            memory={"peak_rss_mb": round(peak_rss_mb(), 1), "peak_gpu_mb": gpu and round(gpu, 1)},
            error=None,
        )
        losses = [
            f"{part} loss {train[f'{part}_loss']:.4f}"
            for part in ("train", "eval")
            if train[f"{part}_loss"] is not None
        ]
        speed = [f"{train['samples_per_second']:.2f} samples/s", f"{train['tokens_per_second']:.0f} tokens/s"]
        held_out = [*reward_parts(rows), *judged_parts(progress.last_eval)]
        figures = [*losses, *held_out, *(speed if trained else []), f"peak memory {peak_rss_mb():.0f} MB"]
        log.say(f"Done in {log.clock(runtime)}: {' · '.join(figures)}")
        log.say(f"Saved in {folder.path}")


def _started(output: Path) -> datetime:
    """When the run in a folder began, by its run.json; now where there is none."""
    try:
        return datetime.fromisoformat(str(read_summary(output).get("started")))
    except (RunFolderError, ValueError):
        return datetime.now()
