"""One training run, from settings to a finished run folder. Settings stop here: what is below takes plain values."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from burnish import log
from burnish.batch.plan import BatchPlan, best_fit_rows
from burnish.config import Settings
from burnish.errors import BurnishError, Interrupted, RunFolderError
from burnish.kernels.attention import packed_rows
from burnish.model.cache import cache_folder
from burnish.model.load import Loaded
from burnish.model.precision import choose_device, choose_precision
from burnish.model.save import save_tokenizer, save_weights
from burnish.model.source import find_model
from burnish.runs.checkpoints import (
    checkpoint_step,
    list_checkpoints,
    newest_complete,
    rotate,
    verify,
    write_checkpoint,
)
from burnish.runs.environment import environment
from burnish.runs.folder import RunFolder, read_summary
from burnish.runs.memory import peak_rss_mb
from burnish.runs.plots import plot_loss
from burnish.template import ChatTemplate
from burnish.train.data import RunData, build_data, build_template, data_seed
from burnish.train.interrupt import StopRequest, stop_on_signals
from burnish.train.loop import Hooks, Loop, LoopOptions
from burnish.train.model import build_model, model_record, takes_packed_rows
from burnish.train.optimizer import MasterAdamW, build_optimizer
from burnish.train.prepare import Prepared
from burnish.train.schedule import rate_by_step, warmup_optimizer_steps
from burnish.train.stages import STAGES, Stage
from burnish.train.state import STATE_FILE, Progress, load_state, read_progress, save_rng, save_state
from burnish.train.summary import data_lines, model_line

# Settings that change which tokens a step sees or how it updates: a resumed run with others is not the same run.
_EXACT = [
    "model_name_or_path",
    "finetuning_type",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target",
    "dataset",
    "template",
    "cutoff_len",
    "overlong",
    "train_on_prompt",
    "mask_history",
    "max_samples",
    "val_size",
    "packing",
    "neat_packing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
    "pure_bf16",
]

Callback = Callable[[dict[str, Any]], None]


def run_training(settings: Settings, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train as the settings say and return what run.json holds.

    Args:
        callbacks: each is called with every row of metrics.jsonl.
    Raises:
        BurnishError: something the user can mend.
        Interrupted: a signal asked the run to stop; a checkpoint was saved.
    """
    output = Path(settings.training.output_dir or f"runs/{_stem(settings)}")
    resume = settings.training.resume_from_checkpoint
    finished = _finished(output, settings) if resume is True else None
    if finished is not None:
        return finished
    job = _Job(settings, output, callbacks)
    if not job.is_main:
        with stop_on_signals() as stop:
            return job.run(stop)
    folder = RunFolder.open_for_training(
        output,
        overwrite=settings.training.overwrite_output_dir,
        resume=resume or False,
        inputs=_inputs(settings),
    )
    with log.log_to_file(folder.log_path), stop_on_signals() as stop:
        folder.write_summary({"status": "running", "settings": settings.flat()})
        try:
            return job.run(stop)
        except Interrupted as stopped:
            folder.update(status="interrupted")
            log.say(f"Interrupted. Go on with: resume_from_checkpoint=true   ({stopped.checkpoint})")
            raise
        except KeyboardInterrupt:
            folder.update(status="interrupted")
            raise
        except BaseException as error:
            log.logger.error("failed", exc_info=not isinstance(error, BurnishError))
            with suppress(BurnishError):  # on a full disk the first error is the one to show
                folder.update(status="failed", error=f"{type(error).__name__}: {error}")
            raise


def _finished(output: Path, settings: Settings) -> dict[str, Any] | None:
    """The record of a run that needs no resuming: it is complete and was asked for the same length."""
    if not (output / "run.json").is_file():
        return None
    record = read_summary(output)
    same = all(
        record.get("settings", {}).get(key) == settings.flat().get(key) for key in ("num_train_epochs", "max_steps")
    )
    if record.get("status") == "completed" and same:
        log.say(f"This run is complete: {output}. Nothing to resume.")
        return record
    return None


def _inputs(settings: Settings) -> list[str]:
    """Local places this run reads from, which its output may not replace."""
    return [str(settings.model.model_name_or_path), *(settings.model.adapter_name_or_path or ())]


def _stem(settings: Settings) -> str:
    return settings.source_path.stem if settings.source_path else settings.tuning.stage


class _Job:
    """The parts of one run, built in the order in which they can fail cheaply: data before weights."""

    def __init__(self, settings: Settings, output: Path, callbacks: Sequence[Callback]) -> None:
        self.settings, self.folder, self.callbacks = settings, RunFolder(output), callbacks
        self.stage: Stage = STAGES.get(settings.tuning.stage)
        self.device = choose_device(settings.training.use_cpu)
        self.precision = choose_precision(
            self.device,
            bf16=bool(settings.training.bf16),
            fp16=settings.training.fp16,
            pure_bf16=settings.tuning.pure_bf16,
        )
        self.accelerator = _accelerator(self.device, self.precision.mixed)
        self.is_main: bool = self.accelerator.is_main_process
        log.set_quiet(not self.is_main)
        self._packs = True

    def record(self, **parts: Any) -> None:
        """Merge parts into run.json; only the first rank writes."""
        if self.is_main:
            self.folder.update(**parts)

    def run(self, stop: StopRequest) -> dict[str, Any]:
        settings = self.settings
        for line in settings.notes:
            log.note(line)
        random.seed(settings.training.seed)
        torch.manual_seed(settings.training.seed)
        assert settings.model.model_name_or_path is not None
        source = find_model(settings.model.model_name_or_path, log.say)
        template = build_template(settings, source)
        data = build_data(settings, template, self.stage)
        for line in data_lines(data.record()):
            log.say(line)
        log.say(f"template: {template.name} · computing in {self.precision.why} · {self.device}")
        loaded = build_model(settings, source, self.precision, self.accelerator.device)
        record = model_record(settings, loaded, self.precision)
        log.say(model_line(record))
        self.record(model=record, data=data.record(), environment=environment(self.folder.path))
        loop = self._loop(loaded, template, data)
        started = time.perf_counter()
        before = loop.progress.elapsed_s
        with packed_rows(_inner(loaded.model)) if self._packs else nullcontext():
            if settings.training.do_train:
                loop.run(stop)
            if loop.eval_sets and not (loop.last_eval and loop.progress.step % loop.options.eval_steps == 0):
                loop.evaluate()
                self._late_eval(loop)
        runtime = before + time.perf_counter() - started
        if self.is_main:
            self._finish(loaded, template, loop, runtime)
        self.accelerator.wait_for_everyone()
        return self.folder.summary()

    # -- building -----------------------------------------------------------------------------------------

    def _loop(self, loaded: Loaded, template: ChatTemplate, data: RunData) -> Loop:
        settings, training = self.settings, self.settings.training
        plan = self._plan(data.train, training.per_device_train_batch_size, training.gradient_accumulation_steps)
        total = training.max_steps
        if total <= 0:
            total = max(1, math.ceil(plan.steps_an_epoch * training.num_train_epochs))
        optimizer = build_optimizer(
            loaded.model,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            beta1=training.adam_beta1,
            beta2=training.adam_beta2,
            epsilon=training.adam_epsilon,
            masters=not settings.tuning.pure_bf16,
        )
        self._packs = takes_packed_rows(loaded.model)
        progress = self._resume(loaded, optimizer, data)
        module = self.stage.module(loaded.model, self._packs)
        self._preflight(loaded.model, optimizer)
        warmup = warmup_optimizer_steps(total, training.warmup_ratio, training.warmup_steps)
        rate = rate_by_step(
            training.lr_scheduler_type, training.learning_rate, total, warmup, training.lr_scheduler_kwargs
        )
        prepared_module, prepared_optimizer = self.accelerator.prepare(module, optimizer)
        prepared_module.train()
        log.say(
            f"{total} optimizer steps of {plan.rows_a_step} {'packed rows' if settings.data.packing else 'samples'}"
            f" · {training.lr_scheduler_type} rate {training.learning_rate:g}, {warmup} steps of warm-up"
            + (f" · going on after step {progress.step}" if progress.step else "")
        )
        pad_id = loaded.tokenizer.pad_token_id or 0
        eval_sets = {}
        if data.eval:
            eval_plan = self._plan(data.eval, training.per_device_eval_batch_size, 1, shuffle=False, pack=False)
            eval_sets[""] = (eval_plan, self._batches(data.eval, pad_id))
        return Loop(
            self.accelerator,
            prepared_module,
            prepared_optimizer,
            optimizer,
            plan,
            self._batches(data.train, pad_id),
            rate,
            LoopOptions(
                total_steps=total,
                max_grad_norm=training.max_grad_norm,
                logging_steps=training.logging_steps,
                eval_steps=_every(training.eval_strategy, training.eval_steps or training.logging_steps, plan)
                if data.eval
                else 0,
                save_steps=_every(training.save_strategy, training.save_steps, plan),
            ),
            Hooks(
                self.folder.metrics.append,
                lambda progress: self._save(loaded, template, optimizer, progress),
                list(self.callbacks),
            ),
            progress,
            eval_sets,
        )

    def _plan(
        self,
        prepared: Prepared,
        batch_rows: int,
        accumulation: int,
        *,
        shuffle: bool = True,
        pack: bool = True,
    ) -> BatchPlan:
        data = self.settings.data
        lengths = [len(example.input_ids) for example in prepared.examples]
        rows: Sequence[Sequence[int]] = [[number] for number in range(len(lengths))]
        if pack and (data.packing or data.neat_packing):
            rows = best_fit_rows(lengths, data.cutoff_len)
            filled = sum(lengths) / (len(rows) * data.cutoff_len)
            log.say(f"packed {len(lengths)} samples into {len(rows)} rows of {data.cutoff_len} ({filled:.0%} full)")
        return BatchPlan(
            rows,
            batch_rows,
            accumulation,
            ranks=self.accelerator.num_processes,
            seed=data_seed(self.settings),
            shuffle=shuffle and not self.settings.tuning.disable_shuffling,
        )

    def _batches(self, prepared: Prepared, pad_id: int) -> Callable[[Sequence[int]], Any]:
        examples = prepared.examples

        def make(numbers: Sequence[int]) -> Any:
            return self.stage.collate([examples[n] for n in numbers], numbers, self._packs, pad_id)

        return make

    def _preflight(self, model: Any, optimizer: MasterAdamW) -> None:
        """Fail before the first step, not at the first save: is there room for the weights and two checkpoints?"""
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        states = sum(p.numel() * 12 for group in optimizer.param_groups for p in group["params"])
        saves = self.settings.training.save_strategy != "no"
        self.folder.require_space(int(trained + 2 * saves * (trained + states)), "weights and checkpoints")

    # -- checkpoints --------------------------------------------------------------------------------------

    def _resume(self, loaded: Loaded, optimizer: MasterAdamW, data: RunData) -> Progress:
        asked = self.settings.training.resume_from_checkpoint
        fresh = Progress(fingerprint=data.fingerprint, settings=_exact(self.settings))
        checkpoint = self._checkpoint(asked) if asked else None
        if checkpoint is None:
            if asked:
                log.note("no checkpoint to resume from yet; starting from the beginning")
            if self.is_main:
                self.folder.metrics.truncate_after(0)
            return fresh
        before = read_progress(checkpoint)
        for key, value in fresh.settings.items():
            if key in before.settings and before.settings[key] != value:
                log.note(f"{key} was {before.settings[key]} and is now {value}: the run will not be the same one")
        if before.fingerprint and before.fingerprint != data.fingerprint:
            log.note("the data gives other tokens than before the interruption: the run will not be the same one")
        _load_weights(loaded.model, checkpoint)
        progress = load_state(checkpoint, optimizer, self.accelerator.process_index)
        progress.settings, progress.fingerprint = fresh.settings, fresh.fingerprint
        if self.is_main:
            self.folder.metrics.truncate_after(progress.step)
            self._set_aside_later_checkpoints(progress.step)
        log.say(f"resumed from {checkpoint.name}")
        return progress

    def _set_aside_later_checkpoints(self, step: int) -> None:
        """Rename checkpoints of a branch that is abandoned by going on from an earlier one; none is deleted."""
        for path in list_checkpoints(self.folder.path):
            if (checkpoint_step(path) or 0) > step:
                aside = path.with_name(f"abandoned-{path.name}-{time.strftime('%Y%m%d-%H%M%S')}")
                path.rename(aside)
                log.note(f"{path.name} is later than the step this run goes on from; kept as {aside.name}")

    def _checkpoint(self, asked: bool | str) -> Path | None:
        if isinstance(asked, str):
            path = Path(asked).expanduser()
            if (path / STATE_FILE).is_file() or path.name.startswith("checkpoint-"):
                problems = verify(path)
                if problems:
                    raise RunFolderError(
                        f"this checkpoint is not complete: {problems[0]}",
                        at=str(path),
                        fix="resume_from_checkpoint: true takes the newest complete one",
                    )
                return path
            parent = path
        else:
            parent = self.folder.path
        newest, skipped = newest_complete(parent)
        for folder, reason in skipped:
            log.note(f"skipped {folder.name}: {reason}")
        return newest

    def _save(self, loaded: Loaded, template: ChatTemplate, optimizer: MasterAdamW, progress: Progress) -> Path | None:
        training = self.settings.training

        def write(folder: Path) -> None:
            self._write_model(loaded, template, folder)
            if not training.save_only_model:
                save_state(folder, progress, optimizer)
                for rank, state in enumerate(random_states):
                    if rank:
                        save_rng(folder, rank, state)

        random_states = _random_states(self.accelerator)
        path = None
        if self.is_main:
            path = write_checkpoint(self.folder.path, progress.step, write)
            rotate(self.folder.path, training.save_total_limit, protect=[path])
        self.accelerator.wait_for_everyone()
        return path

    def _write_model(self, loaded: Loaded, template: ChatTemplate, folder: Path) -> None:
        source = loaded.source
        base = source.location if not source.adapters else None
        save_weights(loaded.model, folder, base_name=base)
        save_tokenizer(loaded.tokenizer, folder, chat_template=template.source, terminator_id=template.terminator_id)

    # -- the end ------------------------------------------------------------------------------------------

    def _late_eval(self, loop: Loop) -> None:
        """Put the closing evaluation into the last row of metrics."""
        rows = self.folder.metrics.read()
        last = {**rows[-1], **loop.last_eval} if rows else {"step": loop.progress.step, **loop.last_eval}
        self.folder.metrics.truncate_after(int(last["step"]) - 1)
        self.folder.metrics.append(last)

    def _finish(self, loaded: Loaded, template: ChatTemplate, loop: Loop, runtime: float) -> None:
        folder, progress = self.folder, loop.progress
        trained = self.settings.training.do_train
        if trained:
            self._write_model(loaded, template, folder.path)
        rows = folder.metrics.read()
        if trained and self.settings.tuning.plot_loss:
            plot_loss(rows, folder.loss_plot_path, "Loss", cache=cache_folder())
        train: dict[str, Any] = {
            "steps": progress.step,
            "epochs": round(progress.step / loop.plan.steps_an_epoch, 4),
            "runtime_s": round(runtime, 3),
            "samples_per_second": round(progress.samples / max(runtime, 1e-9), 4),
            "tokens_per_second": round(progress.tokens / max(runtime, 1e-9), 2),
            "train_loss": progress.loss_sum / progress.step if progress.step else None,
            "eval_loss": loop.last_eval.get("eval_loss"),
        }
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
        figures = [*losses, *(speed if trained else []), f"peak memory {peak_rss_mb():.0f} MB"]
        log.say(f"Done in {log.clock(runtime)}: {' · '.join(figures)}")
        log.say(f"Saved in {folder.path}")


def _accelerator(device: torch.device, mixed: str) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=device.type == "cpu")
    return Accelerator(cpu=device.type == "cpu", mixed_precision=mixed)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _every(strategy: str, steps: float, plan: BatchPlan) -> int:
    if strategy == "no":
        return 0
    return plan.steps_an_epoch if strategy == "epoch" else int(steps)


def _exact(settings: Settings) -> dict[str, Any]:
    flat = settings.flat()
    return {key: flat.get(key) for key in _EXACT}


def _load_weights(model: Any, checkpoint: Path) -> None:
    """Put the trained weights of a checkpoint back into a model that was built the same way."""
    from safetensors.torch import load_file

    adapter = checkpoint / "adapter_model.safetensors"
    if adapter.is_file():
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, load_file(adapter))
        unexpected = list(getattr(result, "unexpected_keys", []))
    else:
        weights: dict[str, Any] = {}
        for shard in sorted(checkpoint.glob("model*.safetensors")):
            weights |= load_file(shard)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "_tied_weights_keys", None) or ())
        unexpected = list(unexpected) + [name for name in missing if name not in tied]
    if unexpected:
        raise RunFolderError(
            f"the checkpoint does not fit this model: '{unexpected[0]}' has no counterpart",
            at=str(checkpoint),
            fix="resume with the same model and finetuning_type",
        )


def _random_states(accelerator: Any) -> list[Any]:
    from burnish.train.state import rng_tensors

    if accelerator.num_processes == 1:
        return []
    from accelerate.utils import gather_object

    return gather_object([rng_tensors()])
