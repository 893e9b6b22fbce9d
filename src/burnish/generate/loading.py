"""A model that is only asked, with its template: the way of loading that chat and scoring share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from burnish.model.load import Loaded, load_for_use
from burnish.model.quantize import Quantization, quantization_of
from burnish.model.source import ModelSource, trained_over
from burnish.template import ChatTemplate, load_template


def load_to_ask(
    source: ModelSource,
    *,
    template: str | None = None,
    default_system: str | None = None,
    use_cpu: bool = False,
    trust_remote_code: bool = False,
    enable_thinking: bool | None = None,
    preserve_thinking: bool = False,
    split_special_tokens: bool = True,
    tool_format: str | None = None,
    infer_dtype: str = "auto",
    quantization_bit: int | None = None,
    quantization_type: str = "nf4",
    double_quantization: bool = True,
    hub: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Loaded, ChatTemplate, Quantization | None]:
    """A model with its adapters, the template it was trained with, and how its weights are held.

    Args:
        template, default_system: by default those of the run that the model is from.
        enable_thinking, preserve_thinking, split_special_tokens, tool_format: as in `ChatTemplate`.
        infer_dtype: number format of the weights: float32, bfloat16, float16, or auto for what the machine does well.
        quantization_bit: 8 or 4 bits for the base weights, 16 for whole ones; None holds them as the run was trained.
            An adapter is merged into whole weights, and stays beside quantized ones.
        hub: `revision`, `cache_dir` and `token`, for a model on the hub.
    """
    quantization = quantization_of(quantization_bit, quantization_type, double_quantization)
    before = trained_over(source) if quantization_bit is None else None
    if before:
        quantization = before
        say(f"the base is held in {before}, as it was trained; quantization_bit=16 takes the whole one")
    loaded = load_for_use(
        source,
        use_cpu=use_cpu,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        dtype=infer_dtype,
        **hub,
    )
    # The tokenizer in a run folder already carries the training template; naming it again gives the same text.
    built = load_template(
        loaded.tokenizer,
        template or source.template,
        default_system=default_system or source.default_system,
        extra_stop_ids=loaded.stop_ids,
        tool_format=tool_format,
        enable_thinking=enable_thinking,
        preserve_thinking=preserve_thinking,
        split_special_tokens=split_special_tokens,
    )
    return loaded, built, quantization
