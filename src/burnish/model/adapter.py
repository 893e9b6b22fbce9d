"""What is trained: all weights, or LoRA adapters on the linear layers that are found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.errors import ModelError
from burnish.model.compat import import_peft
from burnish.model.quantize import scale_bytes, weight_count
from burnish.model.quiet import quiet_transformers
from burnish.registry import did_you_mean

# Linear layers that are no nn.Linear: bitsandbytes', what all GPTQ and AWQ layers of gptqmodel derive from, and
# GPT-2's, which is written as a convolution.
_OTHER_LINEAR = {"Linear4bit", "Linear8bitLt", "BaseQuantLinear", "Conv1D"}


@dataclass(frozen=True)
class TrainableCount:
    """Parameters of a model, how many of them are trained, and the memory of all weights in MB (10^6 bytes)."""

    total: int
    trainable: int
    footprint_mb: float

    @property
    def share(self) -> float:
        return self.trainable / max(self.total, 1)


# Starts that PEFT knows; pissa and olora are set afterwards, by `burnish.model.residual`.
_STARTS: dict[str, Any] = {"gaussian": "gaussian", "orthogonal": "orthogonal"}
_REGEX_MARKS = re.compile(r"[()\[\]{}|*+?\\^$]")


def linear_layer_names(model: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers, without the output head, sorted: what `lora_target: all` means.

    For Llama: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj.
    """
    head = _head(model)
    names = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is not head and _is_linear(module)
    }
    return sorted(name for name in names if name not in _HEADS)


_HEADS = ("lm_head", "score", "embed_out")


def _head(model: nn.Module) -> nn.Module | None:
    get_head = getattr(model, "get_output_embeddings", None)
    return get_head() if callable(get_head) else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or any(kind.__name__ in _OTHER_LINEAR for kind in type(module).__mro__)


def attach_lora(
    model: Any,
    *,
    rank: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    targets: Sequence[str] = ("all",),
    use_rslora: bool = False,
    use_dora: bool = False,
    modules_to_save: Sequence[str] = (),
    start: str = "default",
    new_rows: Sequence[int] = (),
    seed: int = 42,
) -> tuple[Any, list[str]]:
    """Put fresh LoRA adapters on a model and freeze the rest.

    Args:
        rank: of the two factors.  alpha: scale numerator, None for 2 × rank.
        targets: `("all",)` for every linear layer but the head, layer names, or regular expressions, each of which
            has to match the whole name of a module.
        modules_to_save: further modules trained whole.
        start: default, gaussian or orthogonal; pissa and olora begin like default, for `start_from_weights` to change.
        new_rows: token ids whose rows of the embeddings and the head are trained too.
    Returns:
        The PEFT model and the layer names that were targeted.
    Raises:
        ModelError: a target names no layer of this model.
    Source: Hu et al., LoRA, arXiv:2106.09685: W + (alpha / rank) B A with B = 0 at the start. use_rslora: alpha /
        sqrt(rank), arXiv:2312.03732. use_dora: arXiv:2402.09353, eq. 5.
    """
    import_peft()
    from peft import LoraConfig, get_peft_model

    found = linear_layer_names(model)
    chosen = found if list(targets) == ["all"] else list(targets)
    if not chosen:
        raise ModelError("this model has no linear layer to put LoRA on", at="lora_target", fix="use full training")
    pattern = _as_pattern(model, chosen)
    _check_names(model, "lora_target", () if pattern else chosen, found)
    _check_names(model, "additional_target", modules_to_save, found)
    whole = _trained_whole(model, modules_to_save)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=pattern or chosen,
        exclude_modules=None if pattern else _head_by_its_whole_name(model, chosen, targets),
        use_rslora=use_rslora,
        use_dora=use_dora,
        modules_to_save=list(modules_to_save) or None,
        ensure_weight_tying=bool(whole) and is_tied(model),
        trainable_token_indices=_token_rows(model, new_rows, whole),
        init_lora_weights=_STARTS.get(start, True),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)  # the adapter's start depends on the seed alone, not on what ran before
    # Adapters in the model's own dtype: casts at every layer cost a tenth of a step. The optimizer keeps fp32 copies.
    try:
        with quiet_transformers():
            return get_peft_model(model, config, autocast_adapter_dtype=False), chosen
    except (ValueError, RuntimeError) as error:  # a layer of a kind, or a rank, that PEFT has no adapter for
        raise ModelError(
            str(error).splitlines()[0][:300], at="lora_target", fix=f"choose from {', '.join(found)}, or all"
        ) from error


def _as_pattern(model: nn.Module, targets: Sequence[str]) -> str | None:
    """One regular expression for targets of which at least one is one; None where all are plain names."""
    if not any(_REGEX_MARKS.search(target) for target in targets):
        return None
    parts = []
    for target in targets:
        written = target if _REGEX_MARKS.search(target) else rf"(?:.*\.)?{re.escape(target)}"
        try:
            matched = {name: module for name, module in model.named_modules() if re.fullmatch(written, name)}
        except re.error as error:
            raise ModelError(
                f"'{target}' is no regular expression: {error}",
                at="lora_target",
                fix="give expressions that hold commas as a list: lora_target: ['...']",
            ) from error
        if not matched:
            raise ModelError(
                f"no module's whole name matches '{target}'",
                at="lora_target",
                fix=f"whole names look like {_first_linear(model)}; begin with .* to skip the first parts",
            )
        for name, module in matched.items():
            if any(True for _ in module.children()):
                raise ModelError(
                    f"'{target}' matches {name or 'the whole model'}, which holds layers and is none",
                    at="lora_target",
                    fix=r"end the expression with the names of layers, such as .*\.(q_proj|v_proj)",
                )
        parts.append(written)
    return parts[0] if len(parts) == 1 else "|".join(f"(?:{part})" for part in parts)


def _first_linear(model: nn.Module) -> str:
    return next((name for name, module in model.named_modules() if _is_linear(module)), "model.layers.0")


def _check_names(model: nn.Module, key: str, names: Sequence[str], found: Sequence[str]) -> None:
    known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()} | {n for n, _ in model.named_modules()}
    for name in names:
        if name not in known:
            raise ModelError(
                f"this model has no layer '{name}'",
                at=key,
                fix=f"{did_you_mean(name, known)} Linear layers here: {', '.join(found)}, or all",
            )


def _head_by_its_whole_name(model: nn.Module, chosen: Sequence[str], targets: Sequence[str]) -> str | None:
    """An expression for the head, where `all` would reach it by a name that it shares with other layers."""
    head = _head(model)
    name = next((name for name, module in model.named_modules() if module is head), "")
    return re.escape(name) if list(targets) == ["all"] and name.rsplit(".", 1)[-1] in chosen else None


def head_weight(head: Any) -> torch.Tensor | None:
    """The matrix of a linear head, [V, E], with an adapter's own rows or in its copy; None for other kinds of head."""
    if type(head) is nn.Linear:
        return head.weight if head.bias is None else None
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if isinstance(head, ModulesToSaveWrapper):
        head = head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapters[0]]
    if isinstance(head, TrainableTokensWrapper):
        plain = head_weight(head.token_adapter.base_layer) is not None
        used = [] if head.token_adapter.disable_adapters else head.token_adapter.active_adapters
        return head.token_adapter.get_merged_weights(used) if plain else None
    return head.weight if type(head) is nn.Linear and head.bias is None else None


# What a model may do to logits after the head; such a model's own forward pass computes them.
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap", "lm_head_multiplier")


def only_a_head(model: Any) -> bool:
    """Whether nothing stands between the last hidden states and the logits but the head."""
    if not hasattr(model, model.base_model_prefix):
        return False
    config = model.config.get_text_config()
    return all(getattr(config, name, None) in (None, 1, 1.0) for name in _AFTER_THE_HEAD)


def is_tied(model: Any) -> bool:
    """Whether the output head and the input embeddings are one and the same weight."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def embedding_modules(model: Any) -> dict[str, nn.Module]:
    """The input embeddings and the output head, by their names; the embeddings alone where the two are tied."""
    wanted = [model.get_input_embeddings()]
    if not is_tied(model) and model.get_output_embeddings() is not None:
        wanted.append(model.get_output_embeddings())
    return {name: module for name, module in model.named_modules() if any(module is one for one in wanted)}


def _trained_whole(model: Any, modules_to_save: Sequence[str]) -> list[str]:
    """Those of the embeddings and the head that are trained whole anyway; for tied ones, either means both."""
    names = embedding_modules(model)
    if is_tied(model):
        head = model.get_output_embeddings()
        names |= {name: module for name, module in model.named_modules() if module is head}
    whole = [name for name in names if {name, name.rsplit(".", 1)[-1]} & set(modules_to_save)]
    return list(names) if whole and is_tied(model) else whole


def _token_rows(model: Any, rows: Sequence[int], whole: Sequence[str]) -> dict[str, list[int]] | None:
    return {name: list(rows) for name in embedding_modules(model) if rows and name not in whole} or None


def count_parameters(model: nn.Module) -> TrainableCount:
    """Count weights and bytes; tied weights count once, and the scales of quantized ones count as bytes."""
    total = trainable = 0
    size = scale_bytes(model)
    for parameter in model.parameters():
        total += weight_count(parameter)
        size += parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            trainable += parameter.numel()
    return TrainableCount(total, trainable, size / 1e6)
