"""Longer texts than a model was made for: rotary positions stretched by a factor."""

from __future__ import annotations

import math
from typing import Any

from burnish import log
from burnish.errors import ModelError

_LEAVE_OUT = "leave rope_scaling out, or choose a model that was made for longer texts"


def stretched(config: Any, kind: str, tokens: int) -> dict[str, Any]:
    """The values of a model's config that let it take texts of `tokens` tokens.

    The factor is how many times the model's own length goes into that, rounded up. A text that fits already leaves
    everything as it is, and says so.

    Args:
        config: of the model, or of its text part.
        kind: linear divides all positions by the factor; dynamic stretches by how long the text is; yarn and llama3
            stretch slow rotations and leave fast ones alone.
    Returns:
        `rope_parameters` and, but for dynamic, `max_position_embeddings`; empty where there is nothing to do.
    Raises:
        ModelError: the model has no rotary positions, several kinds of them, or ones that are stretched already.
    Source: linear, arXiv:2306.15595; yarn, arXiv:2309.00071; llama3, arXiv:2407.21783; factor as in LLaMA-Factory.
    """
    config = config.get_text_config()
    own, longest = getattr(config, "rope_parameters", None), getattr(config, "max_position_embeddings", None)
    if not own or not longest or "rope_theta" not in own:
        what = "more than one kind of rotary positions" if own else "no rotary positions to stretch"
        raise ModelError(f"{config.model_type} has {what}", at=f"rope_scaling: {kind}", fix=_LEAVE_OUT)
    if tokens <= longest:
        log.note(f"rope_scaling changes nothing: cutoff_len {tokens} is within the model's own {longest} tokens")
        return {}
    before = own.get("rope_type", "default")
    if before == kind == "dynamic":
        return {}
    if before != "default":
        what = f"the rotary positions of this model are stretched already ({before}, {longest} tokens)"
        raise ModelError(
            what, at=f"rope_scaling: {kind}", fix=f"set cutoff_len to {longest} or less; else {_LEAVE_OUT}"
        )
    factor = float(math.ceil(tokens / longest))
    parameters: dict[str, Any] = {"rope_type": kind, "rope_theta": own["rope_theta"], "factor": factor}
    parameters |= {key: own[key] for key in ("partial_rotary_factor",) if key in own}
    if kind in ("yarn", "llama3"):
        parameters["original_max_position_embeddings"] = longest
    if kind == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    log.note(f"rope_scaling: {kind} by {factor:g}, from {longest} to {int(longest * factor)} tokens")
    changes: dict[str, Any] = {"rope_parameters": parameters}
    if kind != "dynamic":  # which measures how far a text goes beyond the model's own length
        changes["max_position_embeddings"] = int(longest * factor)
    return changes


def forget_longest_text(model: Any) -> None:
    """Make dynamic scaling depend on the text at hand alone, not on the longest one that was seen before."""

    def reset(module: Any, _: Any) -> None:
        module.max_seq_len_cached = module.original_max_seq_len
        module.inv_freq = module.original_inv_freq.to(module.inv_freq.device)

    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic" and hasattr(module, "original_inv_freq"):
            module.register_forward_pre_hook(reset)
