"""Rules over the settings of dpo, kto and rm; `rules.py` puts them behind its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from burnish.config.draft import Draft, Finding
from burnish.config.rollout_rules import ROLLOUT
from burnish.config.rollout_rules import USED_BY as _OF_ROLLOUTS

JUDGED = ("dpo", "kto", "rm")
"""Stages that learn from judged answers."""
_REFERENCE_FREE = ("orpo", "simpo")

_USED_BY = {
    "pref_beta": ("dpo", "kto"),
    "pref_loss": ("dpo",),
    "pref_ftx": ("dpo", "kto"),
    "pref_length_normalized": ("dpo",),
    "dpo_label_smoothing": ("dpo",),
    "simpo_gamma": ("dpo",),
    "kto_chosen_weight": ("kto",),
    "kto_rejected_weight": ("kto",),
    "center_rewards_coefficient": ("rm",),
    "ref_model": ("dpo", "kto", *ROLLOUT),
    "precompute_ref": ("dpo", "kto"),
    "disable_dropout": (*JUDGED, *ROLLOUT),
    **_OF_ROLLOUTS,
}


def swapped_labels_have_a_loss(draft: Draft) -> Iterator[Finding]:
    loss = draft["pref_loss"]
    if draft["stage"] == "dpo" and draft["dpo_label_smoothing"] and loss not in ("sigmoid", "robust"):
        what = f"pref_loss: {loss} knows no dpo_label_smoothing"
        yield Finding(("dpo_label_smoothing", "pref_loss"), what, "leave it out, or use pref_loss: sigmoid or robust")


def pairs_of_kto_are_sums(draft: Draft) -> Iterator[Finding]:
    if draft["stage"] == "dpo" and draft["pref_loss"] == "kto_pair" and draft["pref_length_normalized"]:
        what = "pref_loss: kto_pair has no length-normalised form"
        yield Finding(("pref_length_normalized", "pref_loss"), what, "leave pref_length_normalized out")


def reference_adapters_need_a_model(draft: Draft) -> Iterator[Finding]:
    if draft["ref_model_adapters"] and not draft["ref_model"]:
        what = "ref_model_adapters needs ref_model, the model that they are put on"
        yield Finding(("ref_model_adapters", "ref_model"), what, "set ref_model, or leave ref_model_adapters out")


def references_have_8_or_4_bits(draft: Draft) -> Iterator[Finding]:
    bits = draft["ref_model_quantization_bit"]
    if bits not in (None, 4, 8):
        what = f"ref_model_quantization_bit: {bits} does not exist"
        yield Finding(("ref_model_quantization_bit",), what, "write 4 or 8, or leave it out")
    elif bits and not draft["ref_model"]:
        what = "ref_model_quantization_bit needs ref_model; without one, the reference is the model at the start"
        yield Finding(("ref_model_quantization_bit", "ref_model"), what, "set ref_model, or leave it out")


def reference_can_be_precomputed(draft: Draft) -> Iterator[Finding]:
    if not draft["precompute_ref"]:
        return
    if draft["stage"] == "kto":
        what = "precompute_ref does not fit kto, whose mismatched answers differ from batch to batch"
        yield Finding(("precompute_ref", "stage"), what, "leave precompute_ref out")
    elif draft["stage"] == "dpo" and draft["streaming"]:
        what = "precompute_ref needs all data before training, and streaming has not read it then"
        yield Finding(("precompute_ref", "streaming"), what, "keep one of them")


def one_of_kto_weights(draft: Draft) -> Iterator[Finding]:
    if draft["stage"] == "kto" and not draft["kto_chosen_weight"] and not draft["kto_rejected_weight"]:
        what = "kto_chosen_weight and kto_rejected_weight are both 0, so nothing would be learnt"
        yield Finding(("kto_chosen_weight", "kto_rejected_weight"), what, "set one of them above 0")


def judged_losses_are_their_own(draft: Draft) -> Iterator[Finding]:
    if draft["stage"] in (*JUDGED, *ROLLOUT) and draft["loss_function"]:
        what = f"loss_function takes the place of sft's loss; {draft['stage']} has one of its own"
        yield Finding(("loss_function", "stage"), what, "leave loss_function out")


# Remarks.


def used_by_other_stages(draft: Draft) -> Iterator[str]:
    stage = draft["stage"]
    idle = [key for key, stages in _USED_BY.items() if draft.chosen(key) and stage not in stages]
    if idle:
        yield f"{', '.join(idle)}: no effect with stage: {stage}"


def reference_free(draft: Draft) -> Iterator[str]:
    loss = draft["pref_loss"]
    if draft["stage"] != "dpo" or loss not in _REFERENCE_FREE:
        return
    idle = draft.chosen_of(("ref_model", "precompute_ref"))
    if idle:
        yield f"{', '.join(idle)}: no effect with pref_loss: {loss}, which needs no reference"


def robust_of_nothing(draft: Draft) -> Iterator[str]:
    if draft["stage"] == "dpo" and draft["pref_loss"] == "robust" and not draft["dpo_label_smoothing"]:
        yield "pref_loss: robust without dpo_label_smoothing is the same as sigmoid"


def dropout_is_off(draft: Draft) -> Iterator[str]:
    if draft["stage"] in (*JUDGED, *ROLLOUT) and draft["disable_dropout"] and draft.chosen("lora_dropout"):
        yield (
            f"lora_dropout has no effect with stage: {draft['stage']}, which compares answers by the same network; "
            "disable_dropout: false uses it"
        )


_OF_OTHERS = (
    "train_on_prompt",
    "split_turns",
    "label_smoothing_factor",
    "compute_accuracy",
)


def only_judged_answers(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(_OF_OTHERS)
    if draft["stage"] in (*JUDGED, *ROLLOUT) and idle:
        yield f"{', '.join(idle)}: no effect with stage: {draft['stage']}, which learns from judged answers alone"


PREFERENCE_RULES: tuple[Callable[[Draft], Iterator[Finding]], ...] = (
    swapped_labels_have_a_loss,
    pairs_of_kto_are_sums,
    reference_adapters_need_a_model,
    references_have_8_or_4_bits,
    reference_can_be_precomputed,
    one_of_kto_weights,
    judged_losses_are_their_own,
)
PREFERENCE_REMARKS: tuple[Callable[[Draft], Iterator[str]], ...] = (
    used_by_other_stages,
    reference_free,
    robust_of_nothing,
    dropout_is_off,
    only_judged_answers,
)
