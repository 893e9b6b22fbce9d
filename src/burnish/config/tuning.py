"""Settings of the method: which stage, which weights are trained, and the LoRA adapter's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from burnish.config.fields import CHOICE, Flag, Names, Number, RoomSettings, Text, Whole, as_word, setting

Stage = Annotated[Literal["sft", "pt", "rm", "dpo", "kto", "ppo", "grpo", "rloo"], CHOICE, BeforeValidator(as_word)]
FinetuningType = Annotated[Literal["lora", "freeze", "full"], CHOICE, BeforeValidator(as_word)]
LoraInit = Annotated[
    Literal["default", "gaussian", "orthogonal", "pissa", "olora", "loftq"], CHOICE, BeforeValidator(as_word)
]


def _lora_init_default(above: dict[str, Any]) -> str:
    return "pissa" if above.get("pissa_init") else "default"


def _alpha_default(above: dict[str, Any]) -> int:
    return 2 * int(above.get("lora_rank", 8))


class TuningSettings(RoomSettings):
    """What is trained, and how the change is held."""

    stage: Stage = setting(
        "sft",
        "What is learnt: sft from answers; pt from text; dpo from pairs; kto from marked answers; rm to score; "
        "ppo, grpo, rloo from rewards for own answers.",
    )
    finetuning_type: FinetuningType = setting(
        "lora",
        "Which weights are trained: lora adds a small adapter, freeze trains some of the layers, full trains all.",
    )
    pure_bf16: Flag = setting(False, "Hold the trained weights in bfloat16 too, without a float32 copy.")
    freeze_trainable_layers: Whole = setting(
        2, "How many layers finetuning_type: freeze trains: the last ones, or the first ones if negative."
    )
    freeze_trainable_modules: Names = setting(
        ("all",), "Which parts of those layers are trained, such as self_attn, mlp; all means all."
    )
    freeze_extra_modules: Names = setting(
        (), "Parts outside the layers that are trained too, such as embed_tokens, norm, lm_head."
    )
    lora_rank: Whole = setting(8, "Rank of the LoRA matrices.", ge=1)
    lora_alpha: Whole = setting(
        None,
        "LoRA scale: the adapter's output is multiplied by alpha / rank (see use_rslora).",
        derived="2 × lora_rank",
        factory=_alpha_default,
        ge=1,
    )
    lora_dropout: Number = setting(
        0.0, "Share of the adapter's inputs that are set to zero at random in training.", ge=0, lt=1
    )
    lora_target: Names = setting(
        ("all",),
        "Layers that get an adapter, by name or regular expression; all means all linear ones but the output layer.",
    )
    additional_target: Names = setting(
        (), "Names of layers that are trained in full and saved beside the adapter, such as embed_tokens."
    )
    pissa_init: Flag = setting(False, "The same as lora_init: pissa.")
    lora_init: LoraInit = setting(
        "default",
        "How the adapter starts: default, gaussian or orthogonal at random, pissa or olora from the weights, "
        "loftq from what quantizing lost.",
        derived="pissa with pissa_init, else default",
        factory=_lora_init_default,
    )
    pissa_iter: Whole = setting(16, "Rounds of PiSSA's fast decomposition; -1 computes the exact one.", ge=-1)
    use_rslora: Flag = setting(False, "Scale the adapter by alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: Flag = setting(False, "Train size and direction of each weight apart (DoRA).")
    loraplus_lr_ratio: Number | None = setting(
        None, "LoRA+: the learning rate of LoRA's B matrices over that of the A matrices; without it, 1.", gt=0
    )
    loraplus_lr_embedding: Number = setting(
        1e-6, "LoRA+: the learning rate of LoRA matrices on embeddings.", ge=0, le=1
    )
    use_adam_mini: Flag = setting(False, "Train with Adam-mini; the same as optim: adam_mini.")
    use_muon: Flag = setting(False, "Train with Muon; the same as optim: muon.")
    create_new_adapter: Flag = setting(
        False,
        "Merge the given adapters into the base model and train a fresh one, instead of training them on.",
    )
    compute_accuracy: Flag = setting(
        False, "Also report the share of trained tokens that were the likeliest ones, in training and evaluation."
    )
    early_stopping_steps: Whole | None = setting(
        None, "Evaluations in a row without a better metric_for_best_model after which the run ends.", ge=1
    )
    loss_function: Text | None = setting(
        None,
        "A loss of your own, as module:name or file.py:name, from logits, labels and weights to a sum and a count.",
    )
    callbacks: Names = setting(
        (), "Functions or classes of your own that are called while the run goes on, as module:name or file.py:name."
    )
    plot_loss: Flag = setting(True, "Draw loss.png in the output folder.")
    disable_shuffling: Flag = setting(False, "Keep the samples in the order of the files in every epoch.")
    include_effective_tokens_per_second: Flag = setting(
        False, "Also report the speed in real tokens, without padding, a second and device."
    )
