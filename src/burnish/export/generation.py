"""How an exported model generates: where it stops, and how tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.model.save import mend_generation_config
from burnish.template import ChatTemplate

SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")


def set_generation(model: Any, template: ChatTemplate | None, sampling: Mapping[str, Any]) -> None:
    """Put the stop tokens of the template, and how tokens are drawn, into a model's generation settings.

    Args:
        sampling: what is asked for besides the model's own settings, by the names in `SAMPLING`.
    Raises:
        ModelError: the model's own settings contradict themselves.
    """
    config = model.generation_config
    for key, value in sampling.items():
        setattr(config, key, value)
    if sampling and "do_sample" not in sampling:
        config.do_sample = config.temperature != 0
    if not config.do_sample and ("do_sample" in sampling or config.temperature == 0):  # greedy: nothing is drawn
        config.do_sample = False
        config.temperature = config.top_p = config.top_k = None
    if template is not None:
        stops = stop_ids(template)
        config.eos_token_id = stops[0] if len(stops) == 1 else stops
        model.config.eos_token_id = config.eos_token_id
    if config.pad_token_id is None and template is not None:
        config.pad_token_id = template.tokenizer.pad_token_id
    mend_generation_config(model)


def stop_ids(template: ChatTemplate) -> list[int]:
    """The ids at which answers end, the one that ends a plain answer first."""
    return [template.terminator_id, *sorted(template.stop_ids - {template.terminator_id})]


def stop_texts(template: ChatTemplate) -> list[str]:
    """The tokens of `stop_ids` as text, without those that would stop nothing."""
    names = [template.tokenizer.convert_ids_to_tokens(number) for number in stop_ids(template)]
    return [name for name in dict.fromkeys(names) if name]


def sampling_of(config: Any) -> dict[str, Any]:
    """How tokens are drawn by a generation config, without what it leaves open; greedy is a temperature of 0."""
    found = {key: getattr(config, key, None) for key in SAMPLING}
    found = {key: value for key, value in found.items() if value is not None}
    drawn = found.pop("do_sample", None)
    if not drawn:
        found = {key: value for key, value in found.items() if key in ("repetition_penalty", "max_new_tokens")}
    if drawn is False:
        found["temperature"] = 0.0
    return found
