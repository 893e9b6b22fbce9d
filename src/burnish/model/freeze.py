"""Freeze: train some of a model's layers and leave every other weight as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from burnish.errors import ModelError
from burnish.registry import nearest


def train_layers(
    model: Any, *, layers: int = 2, modules: Sequence[str] = ("all",), extra_modules: Sequence[str] = ()
) -> str:
    """Freeze a model but for some of its layers.

    Args:
        layers: how many; the last ones, or the first ones where it is negative. More than there are means all.
        modules: the parts of those layers, `("all",)` or names such as self_attn, mlp, q_proj or mlp.down_proj.
        extra_modules: modules outside the layers, such as embed_tokens, norm or lm_head.
    Returns:
        What is trained, for people: `self_attn of layers 28, 29 and norm`. Layers are counted from 0, as in the names
        of weights.
    Raises:
        ModelError: the model has no stack of layers, a name names nothing, or nothing is left to train.
    Source: as `finetuning_type: freeze` of LLaMA-Factory.
    """
    stack_name, stack = find_layers(model)
    count = len(stack)
    chosen = range(max(0, count - layers), count) if layers > 0 else range(min(-layers, count))
    outside = _outside(model, stack_name)
    _check(extra_modules, outside, "freeze_extra_modules", "Modules outside the layers")
    if list(modules) != ["all"]:
        _check(modules, _parts(stack), "freeze_trainable_modules", "Parts of a layer")
    model.requires_grad_(False)
    for number in chosen:
        for name, parameter in stack[number].named_parameters():
            parameter.requires_grad_(list(modules) == ["all"] or _is_in(name, modules))
    for name, parameter in _parameters(model):
        if not name.startswith(f"{stack_name}.") and _is_in(name, extra_modules):
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "freeze would train nothing: the named modules hold no weights",
            at="freeze_extra_modules",
            fix="set freeze_trainable_layers to a number other than 0",
        )
    return _in_words(model, chosen, count, modules, extra_modules)


def find_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The name and the list of a model's repeated layers. Raises ModelError where there is none."""
    config = model.config.get_text_config()
    count = next((getattr(config, key) for key in _COUNTS if getattr(config, key, None)), None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ModelError(
        f"{config.model_type} has no stack of {count or 'like'} layers to choose from",
        at="finetuning_type: freeze",
        fix="use finetuning_type: lora or full",
    )


_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")


def _parameters(model: Any) -> Iterable[tuple[str, nn.Parameter]]:
    """All parameters by all their names: a tied head has its own name too."""
    return model.named_parameters(remove_duplicate=False)


def _parts(stack: nn.ModuleList) -> list[str]:
    """Names inside a layer that hold weights, from the outermost ones on; layers of one model may differ."""
    paths = [name.rpartition(".")[0] for layer in stack for name, _ in layer.named_parameters()]
    outer = [path.split(".")[0] for path in paths]
    return list(dict.fromkeys([*outer, *(path.rsplit(".", 1)[-1] for path in paths), *paths]))


def _outside(model: Any, stack_name: str) -> list[str]:
    paths = [name.rpartition(".")[0] for name, _ in _parameters(model) if not name.startswith(f"{stack_name}.")]
    return list(dict.fromkeys([*(path.rsplit(".", 1)[-1] for path in paths), *paths]))


def _is_in(parameter: str, modules: Sequence[str]) -> bool:
    """Whether a parameter belongs to one of the named modules: whole parts of its name count."""
    return any(f".{module}." in f".{parameter}" for module in modules)


def _check(names: Sequence[str], known: Sequence[str], key: str, what: str) -> None:
    for name in names:
        if name not in known:
            close = "".join(f"did you mean '{one}'? " for one in nearest(name, known))
            listed = ", ".join(one for one in known if "." not in one)
            raise ModelError(f"this model has no module '{name}' there", at=key, fix=f"{close}{what}: {listed}")


def _in_words(model: Any, chosen: range, count: int, modules: Sequence[str], extra: Sequence[str]) -> str:
    if len(chosen) > 4 or len(chosen) == count:
        listed = f"layers {chosen[0]}–{chosen[-1]}"
    else:
        listed = ("layer " if len(chosen) == 1 else "layers ") + ", ".join(map(str, chosen))
    if len(chosen) == count:
        listed = f"all {listed}"
    if list(modules) != ["all"]:
        listed = f"{', '.join(modules)} of {listed}"
    parts = [*([listed] if chosen else []), *extra]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight and head.weight.requires_grad:
        text += " (the output layer and the embeddings are one and the same)"
    return text
