"""Settings of the loop: batches, optimizer, schedule, logging, saving and evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from burnish.config.fields import (
    CHOICE,
    NAMES,
    Flag,
    Number,
    Options,
    PathText,
    Resume,
    RoomSettings,
    Steps,
    Table,
    Text,
    Whole,
    as_names,
    as_word,
    setting,
)

Schedule = Annotated[
    Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
    ],
    CHOICE,
    BeforeValidator(as_word),
]
Optimizer = Annotated[
    Literal[
        "adamw_torch_fused",
        "adamw_torch",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw",
        "adam_mini",
        "adafactor",
        "muon",
        "lion",
        "lion_32bit",
        "lion_8bit",
        "paged_lion_8bit",
        "paged_lion_32bit",
        "sgd",
        "adagrad",
        "rmsprop",
    ],
    CHOICE,
    BeforeValidator(as_word),
]
Moments = Annotated[Literal["no", "steps", "epoch"], CHOICE, BeforeValidator(as_word)]
SaveMoments = Annotated[Literal["no", "steps", "epoch", "best"], CHOICE, BeforeValidator(as_word)]
TRACKERS = ("tensorboard", "wandb", "swanlab", "mlflow", "trackio", "comet_ml", "clearml", "aim", "dvclive")
"""Experiment trackers that `report_to` can name."""


LARGEST_SEED = 2**32 - 1


def _as_trackers(value: Any) -> tuple[str, ...]:
    names = tuple(name.lower() for name in as_names("no" if value is False else value))
    return ("none",) if names in ((), ("no",)) else names


ReportTo = Annotated[tuple[str, ...], NAMES, BeforeValidator(_as_trackers)]


def _do_eval_default(above: dict[str, Any]) -> bool:
    return above.get("eval_strategy", "no") != "no"


def _eval_steps_default(above: dict[str, Any]) -> Any:
    return above.get("logging_steps", 10)


def _greater_default(above: dict[str, Any]) -> bool:
    return not str(above.get("metric_for_best_model", "eval_loss")).endswith("loss")


def _data_seed_default(above: dict[str, Any]) -> int:
    return int(above.get("seed", 42))


class TrainingSettings(RoomSettings):
    """How the loop runs. A step is one update of the weights by the optimizer."""

    output_dir: PathText | None = setting(None, "Folder that receives the run: weights, metrics, plots and log.")
    overwrite_output_dir: Flag = setting(
        False, "Delete the run that the output folder holds, once this one begins to train."
    )
    do_train: Flag = setting(True, "Train the model.", derived="true, unless only do_eval or do_predict is asked for")
    per_device_train_batch_size: Whole = setting(8, "Samples in one forward pass on each device in training.", ge=1)
    per_device_eval_batch_size: Whole = setting(8, "Samples in one forward pass on each device in evaluation.", ge=1)
    gradient_accumulation_steps: Whole = setting(
        1, "Forward and backward passes whose gradients are added up before each step.", ge=1
    )
    learning_rate: Number = setting(5e-5, "Highest learning rate, reached after the warm-up.", ge=0, le=1)
    weight_decay: Number = setting(0.0, "Share of a weight, times the rate, taken off each step (AdamW).", ge=0)
    adam_beta1: Number = setting(0.9, "How slowly AdamW's mean of the gradients forgets.", ge=0, lt=1)
    adam_beta2: Number = setting(0.999, "How slowly AdamW's mean of the squared gradients forgets.", ge=0, lt=1)
    adam_epsilon: Number = setting(1e-8, "Small number in AdamW's denominator against division by zero.", gt=0)
    max_grad_norm: Number = setting(1.0, "Longest gradient (L2 norm) before it is scaled down; 0 never scales.", ge=0)
    num_train_epochs: Number = setting(3.0, "Passes over the training data; may be a fraction.", gt=0)
    max_steps: Whole = setting(
        -1, "Steps to train for, instead of num_train_epochs; -1 or 0 leaves it to those.", ge=-1
    )
    lr_scheduler_type: Schedule = setting("linear", "Shape of the learning rate over the run after the warm-up.")
    lr_scheduler_kwargs: Table | None = setting(None, "Further values for the schedule, such as num_cycles.")
    warmup_ratio: Number = setting(0.0, "Share of all steps in which the rate rises from 0.", ge=0, le=1)
    warmup_steps: Number = setting(
        0.0, "Steps in which the rate rises from 0, or a share below 1; above 0 it wins over warmup_ratio.", ge=0
    )
    neftune_noise_alpha: Number = setting(
        0.0, "Strength of the random noise on embeddings in training (NEFTune); 0 adds none.", ge=0
    )
    optim: Optimizer = setting("adamw_torch_fused", "The optimizer; the page optimizers.md compares them.")
    optim_args: Options | None = setting(None, "Further values for the optimizer, such as momentum=0.9 for sgd.")
    label_smoothing_factor: Number = setting(
        0.0, "Share of each target that is spread evenly over the vocabulary in training.", ge=0, lt=1
    )
    dataloader_drop_last: Flag = setting(False, "Leave the last samples of an epoch out where they do not fill a step.")
    group_by_length: Flag = setting(
        False, "Put samples of like length into one step; for models that train on padded batches."
    )
    logging_strategy: Moments = setting(
        "steps", "When rows of metrics are written: every logging_steps, every epoch, or only at the end (no)."
    )
    logging_steps: Steps = setting(10, "Steps between two rows of metrics; below 1 a share of the run.")
    logging_first_step: Flag = setting(False, "Also write a row of metrics after the first step.")
    report_to: ReportTo = setting(
        ("none",), "Trackers that also get the metrics: none, all that are installed, or names such as wandb."
    )
    use_swanlab: Flag = setting(False, "The same as adding swanlab to report_to.")
    logging_dir: PathText | None = setting(
        None, "Folder for the files of trackers; TensorBoard's go below it under run_name.", derived="output_dir"
    )
    run_name: Text | None = setting(None, "The name that trackers show for the run.", derived="the name of output_dir")
    save_strategy: SaveMoments = setting(
        "steps",
        "When checkpoints are saved: never, every save_steps, every epoch, or whenever an evaluation is the best.",
    )
    save_steps: Steps = setting(
        500, "Steps between two checkpoints with save_strategy: steps; below 1 a share of the run."
    )
    save_total_limit: Whole | None = setting(None, "Most checkpoints kept; without it, all.", ge=1)
    save_only_model: Flag = setting(
        False, "Checkpoints hold the weights only; smaller, but a run cannot be resumed exactly from them."
    )
    eval_strategy: Moments = setting(
        "no", "When the loss is measured on held-out data: never, every eval_steps, or every epoch."
    )
    eval_steps: Steps = setting(
        None,
        "Steps between two evaluations with eval_strategy: steps; below 1 a share of the run.",
        derived="the value of logging_steps",
        factory=_eval_steps_default,
    )
    eval_on_start: Flag = setting(False, "Also evaluate before the first step.")
    eval_delay: Number = setting(0, "Steps, or epochs with eval_strategy: epoch, before the first evaluation.", ge=0)
    load_best_model_at_end: Flag = setting(
        False, "Keep each best evaluation's checkpoint, and end with the weights of the last of them."
    )
    metric_for_best_model: Text = setting(
        "eval_loss", "The result of evaluations that tells which one is the best; eval_ may be left out."
    )
    greater_is_better: Flag = setting(
        None,
        "Whether a greater metric_for_best_model is the better one.",
        derived="false for a loss, else true",
        factory=_greater_default,
    )
    do_eval: Flag = setting(
        False,
        "Evaluate on the held-out data after training.",
        derived="true when eval_strategy is not no",
        factory=_do_eval_default,
    )
    do_predict: Flag = setting(
        False, "Answer the evaluation data after training, or alone, and compare with its answers."
    )
    predict_with_generate: Flag = setting(
        False, "Predictions are generated text.", derived="true with do_predict, which knows no other kind"
    )
    resume_from_checkpoint: Resume = setting(
        False, "Go on from the newest checkpoint in output_dir (true), or from the one at this path."
    )
    seed: Whole = setting(42, "Seed of everything random in the run.", ge=0, le=LARGEST_SEED)
    data_seed: Whole = setting(
        None,
        "Seed of the order of the samples.",
        derived="the value of seed",
        factory=_data_seed_default,
        ge=0,
        le=LARGEST_SEED,
    )
    bf16: Flag | None = setting(
        None,
        "Compute in bfloat16; without it, the machine's abilities decide.",
        derived="what the machine does well",
    )
    fp16: Flag = setting(False, "Compute in float16 with a scaled loss.")
    tf32: Flag = setting(
        False, "Let float32 matrix products on newer NVIDIA GPUs round to TensorFloat-32, which is faster."
    )
    full_determinism: Flag = setting(
        False, "Refuse operations whose result may differ from run to run; slower on a GPU."
    )
    use_cpu: Flag = setting(False, "Stay on the CPU even if there is an accelerator.")
    gradient_checkpointing: Flag | None = setting(
        None,
        "Compute activations again in the backward pass to save memory; the result stays the same.",
        derived="false with disable_gradient_checkpointing, else Burnish chooses",
    )
