"""From settings to the plain values that the loop and the optimizer take."""

from __future__ import annotations

import math

from burnish.batch.plan import Plan
from burnish.config import Settings
from burnish.model.precision import Precision
from burnish.train.evaluation import Best
from burnish.train.loop import LoopOptions
from burnish.train.optimizers import OptimizerOptions
from burnish.train.stages import Stage


def optimizer_options(settings: Settings) -> OptimizerOptions:
    """The optimizer and its values."""
    training, tuning = settings.training, settings.tuning
    lora = tuning.finetuning_type == "lora"
    return OptimizerOptions(
        name=training.optim,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        beta1=training.adam_beta1,
        beta2=training.adam_beta2,
        epsilon=training.adam_epsilon,
        masters=not tuning.pure_bf16,
        loraplus_lr_ratio=tuning.loraplus_lr_ratio if lora else None,
        loraplus_lr_embedding=tuning.loraplus_lr_embedding,
        extras=training.optim_args or {},
    )


def loop_options(settings: Settings, stage: Stage, precision: Precision, plan: Plan, total: int) -> LoopOptions:
    """The numbers that steer the loop over `total` optimizer steps."""
    training, tuning = settings.training, settings.tuning
    eval_steps = steps_between(training.eval_strategy, training.eval_steps or training.logging_steps, plan, total)
    delay = training.eval_delay * (plan.steps_an_epoch if training.eval_strategy == "epoch" else 1)
    return LoopOptions(
        total_steps=total,
        max_grad_norm=training.max_grad_norm,
        logging_steps=steps_between(training.logging_strategy, training.logging_steps, plan, total),
        logs_first_step=training.logging_first_step,
        eval_steps=eval_steps,
        eval_delay_steps=math.ceil(delay) - 1,
        evaluates_first=training.eval_on_start,
        evaluates_last="do_eval" not in settings.given or training.do_eval,
        save_steps=steps_between(training.save_strategy, training.save_steps, plan, total),
        saves_last=training.save_strategy in ("steps", "epoch"),
        best=Best(
            training.metric_for_best_model,
            training.greater_is_better,
            tuning.early_stopping_steps or 0,
            saves=training.load_best_model_at_end or training.save_strategy == "best",
        ),
        unit=stage.unit,
        scales_gradients=precision.mixed == "fp16",
    )


def steps_between(strategy: str, steps: float, plan: Plan, total: int) -> int:
    """Steps between two of something; 0 for never. Below 1, `steps` is a share of all steps, rounded up."""
    if strategy in ("no", "best"):
        return 0
    if strategy == "epoch":
        return plan.steps_an_epoch
    return math.ceil(steps * total) if steps < 1 else int(steps)
