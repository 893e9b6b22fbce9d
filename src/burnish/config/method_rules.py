"""Rules over settings of the method; `rules.py` holds the tables they stand in."""

from __future__ import annotations

from collections.abc import Iterator

from burnish.config.draft import Draft, Finding


def adapters_need_lora(draft: Draft) -> Iterator[Finding]:
    if draft["adapter_name_or_path"] and draft["finetuning_type"] != "lora":
        what = f"an adapter cannot be used with finetuning_type: {draft['finetuning_type']}"
        fix = "use finetuning_type: lora, or leave adapter_name_or_path out"
        yield Finding(("finetuning_type", "adapter_name_or_path"), what, fix)


def lora_target_names_layers(draft: Draft) -> Iterator[Finding]:
    target = draft["lora_target"]
    if not target:
        fix = "write lora_target: all, or names of layers"
        yield Finding(("lora_target",), "lora_target names no layers", fix)
    elif "all" in target and len(target) > 1:
        fix = "write lora_target: all alone, or the names without all"
        yield Finding(("lora_target",), "lora_target names all layers and single ones", fix)


def quantization_has_8_or_4_bits(draft: Draft) -> Iterator[Finding]:
    bits = draft["quantization_bit"]
    if bits not in (None, 4, 8, 16):
        yield Finding(
            ("quantization_bit",), f"quantization_bit: {bits} does not exist", "write 4 or 8, or leave it out"
        )


def quantized_bases_need_lora(draft: Draft) -> Iterator[Finding]:
    kind = draft["finetuning_type"]
    if draft["quantization_bit"] in (4, 8) and kind != "lora":
        what = f"quantized weights cannot be trained, as finetuning_type: {kind} would"
        fix = "use finetuning_type: lora, or leave quantization_bit out"
        yield Finding(("quantization_bit", "finetuning_type"), what, fix)


def residuals_need_whole_weights(draft: Draft) -> Iterator[Finding]:
    if draft["lora_init"] in ("pissa", "olora") and draft["quantization_bit"] in (8, 4):
        what = f"lora_init: {draft['lora_init']} takes its start out of the weights, which quantized ones do not allow"
        keys = ("lora_init", "pissa_init", "quantization_bit")
        yield Finding(keys, what, "use lora_init: default, or leave quantization_bit out")


def loftq_needs_quantized_weights(draft: Draft) -> Iterator[Finding]:
    if draft["lora_init"] != "loftq":
        return
    if draft["quantization_bit"] not in (8, 4):
        what = "lora_init: loftq starts from what quantizing lost, and nothing is quantized"
        yield Finding(("lora_init", "quantization_bit"), what, "set quantization_bit: 4, or leave lora_init out")
    if draft["use_dora"]:
        what = "lora_init: loftq and use_dora do not go together: DoRA takes the quantized weights as its start"
        yield Finding(("use_dora", "lora_init"), what, "keep one of them")


def one_start_for_lora(draft: Draft) -> Iterator[Finding]:
    if draft["pissa_init"] and draft["lora_init"] != "pissa":
        what = f"pissa_init: true contradicts lora_init: {draft['lora_init']}"
        yield Finding(("lora_init", "pissa_init"), what, "keep one of them")


def orthogonal_rank_is_even(draft: Draft) -> Iterator[Finding]:
    if draft["lora_init"] == "orthogonal" and draft["lora_rank"] % 2:
        what = f"lora_init: orthogonal needs an even rank, not {draft['lora_rank']}"
        yield Finding(("lora_rank", "lora_init"), what, f"set lora_rank: {draft['lora_rank'] + 1}")


def freeze_trains_something(draft: Draft) -> Iterator[Finding]:
    if draft["finetuning_type"] != "freeze":
        return
    modules = draft["freeze_trainable_modules"]
    if "all" in modules and len(modules) > 1:
        what = "freeze_trainable_modules names all parts and single ones"
        yield Finding(("freeze_trainable_modules",), what, "write all alone, or the names without all")
    if not draft["freeze_extra_modules"] and not (draft["freeze_trainable_layers"] and modules):
        what = "finetuning_type: freeze would train nothing"
        fix = "set freeze_trainable_layers to a number other than 0, or name freeze_extra_modules"
        yield Finding(("freeze_trainable_layers", "freeze_trainable_modules", "finetuning_type"), what, fix)


def scratch_trains_all(draft: Draft) -> Iterator[Finding]:
    if draft["train_from_scratch"] and draft["finetuning_type"] != "full":
        what = f"train_from_scratch trains all weights, finetuning_type: {draft['finetuning_type']} does not"
        yield Finding(("finetuning_type", "train_from_scratch"), what, "set finetuning_type: full")


_FREEZE_ONLY = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")


def freeze_without_effect(draft: Draft) -> Iterator[str]:
    idle = draft.chosen_of(_FREEZE_ONLY)
    if draft["finetuning_type"] != "freeze" and idle:
        yield f"{', '.join(idle)}: no effect with finetuning_type: {draft['finetuning_type']}"


def pissa_rounds_need_pissa(draft: Draft) -> Iterator[str]:
    if draft.chosen("pissa_iter") and draft["lora_init"] != "pissa" and draft["finetuning_type"] == "lora":
        yield "pissa_iter has no effect without lora_init: pissa"
