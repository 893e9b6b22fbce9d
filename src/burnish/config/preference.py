"""Settings of learning from judged answers: the stages dpo, kto and rm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from burnish.config.fields import CHOICE, Flag, Number, Paths, PathText, RoomSettings, Whole, as_word, setting

PrefLoss = Annotated[
    Literal["sigmoid", "hinge", "ipo", "robust", "orpo", "simpo", "kto_pair"], CHOICE, BeforeValidator(as_word)
]


class PreferenceSettings(RoomSettings):
    """How judged answers change the model."""

    pref_beta: Number = setting(
        0.1, "How strongly dpo and kto hold the policy near the reference; for orpo the weight of its odds ratio.", gt=0
    )
    pref_loss: PrefLoss = setting("sigmoid", "The loss of dpo; orpo and simpo need no reference model.")
    pref_ftx: Number = setting(
        0.0, "Weight of the cross-entropy a token of the chosen answers that is added to the loss.", ge=0
    )
    pref_length_normalized: Flag = setting(
        False, "Compare log-probabilities a token instead of their sums; ipo, orpo and simpo always do."
    )
    dpo_label_smoothing: Number = setting(
        0.0, "The chance that a pair's two answers are swapped, for pref_loss sigmoid and robust.", ge=0, lt=0.5
    )
    simpo_gamma: Number = setting(0.5, "The margin that simpo aims for between chosen and rejected.", ge=0)
    kto_chosen_weight: Number = setting(1.0, "Weight of the loss of desirable answers in kto.", ge=0)
    kto_rejected_weight: Number = setting(1.0, "Weight of the loss of undesirable answers in kto.", ge=0)
    center_rewards_coefficient: Number = setting(
        0.0, "Weight of a term that holds the scores of a reward model around zero.", ge=0
    )
    ref_model: PathText | None = setting(
        None, "The reference model of dpo and kto; without it, the model as it is when training starts."
    )
    ref_model_adapters: Paths = setting((), "Adapters that are merged into ref_model, in this order.")
    ref_model_quantization_bit: Whole | None = setting(
        None, "Hold the weights of ref_model in 8 or 4 bits; without it, in the number format of the training."
    )
    precompute_ref: Flag = setting(
        False, "Compute what the reference says of each pair once before training, and keep it in the cache."
    )
    disable_dropout: Flag = setting(
        True, "Train without dropout in dpo, kto and rm, so that two answers are compared by the same network."
    )
