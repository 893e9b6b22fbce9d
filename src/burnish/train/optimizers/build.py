"""From a name such as `adamw_8bit` to the optimizer of a model: which part updates which weights, at which rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from burnish import log
from burnish.errors import BurnishError, MissingExtraError
from burnish.train.optimizers.adam_mini import AdamMini
from burnish.train.optimizers.lion import Lion
from burnish.train.optimizers.masters import Make, MasterOptimizer
from burnish.train.optimizers.weights import Weight, trained_weights

_FUSED_ON = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class OptimizerOptions:
    """Plain values for `build_optimizer`.

    Attributes:
        name: a name of transformers (`adamw_torch`, `adafactor`, `lion_8bit`, …), or `lion`, `muon`, `adam_mini`.
        learning_rate: of the groups at `rate_factor` 1.
        weight_decay: share of a weight, times the rate, taken off each step; biases and norms are spared.
        masters: float32 copies of low-precision weights.
        loraplus_lr_ratio: rate of LoRA's B matrices over that of the A matrices; None trains both alike.
        loraplus_lr_embedding: rate of adapters on embeddings, with loraplus_lr_ratio.
        extras: further values for the named optimizer, such as sgd's momentum.
    """

    name: str = "adamw_torch_fused"
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    masters: bool = True
    loraplus_lr_ratio: float | None = None
    loraplus_lr_embedding: float = 1e-6
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, self.beta2


_KINDS: Mapping[str, str] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_8bit": "adamw_8bit",
    "paged_adamw": "adamw_32bit",
    "paged_adamw_32bit": "adamw_32bit",
    "lion": "lion",
    "lion_32bit": "lion",
    "lion_8bit": "lion_8bit",
    "paged_lion_8bit": "lion_8bit",
    "paged_lion_32bit": "lion_32bit",
    **{name: name for name in ("adafactor", "adagrad", "adam_mini", "muon", "rmsprop", "sgd")},
}
"""Names in settings → the kind whose state a checkpoint holds; paged or not, fused or not, the state is the same."""


def _kind(name: str, weight: Weight) -> str:
    """Which optimizer updates a weight."""
    kind = _KINDS[name]
    if kind == "muon" and not weight.hidden_matrix:
        return "adamw"
    if kind.endswith("_8bit") and weight.table:  # rows of rare tokens lose too much in 8 bits
        return kind.removesuffix("_8bit")
    return kind


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> MasterOptimizer:
    """The optimizer of a model's trainable parameters.

    Weight decay spares biases and norm weights (tensors of one dimension). `muon` is for matrices between hidden
    layers, LoRA's factors among them; embeddings, heads, biases and norms get AdamW. The 8-bit optimizers keep 32 bits
    for embeddings and heads.

    Raises:
        BurnishError: this torch has no Muon, or an extra value is refused.
        MissingExtraError: bitsandbytes is needed and not installed.
    Source: LoRA+, Hayou et al., arXiv:2402.12354: the rate of B is a multiple of that of A.
    """
    buckets: dict[tuple[str, float, float, int], list[tuple[str, nn.Parameter]]] = {}
    for weight in trained_weights(model):
        kind = _kind(options.name, weight)
        decay = 0.0 if weight.vector else options.weight_decay
        block = weight.block if kind == "adam_mini" else 1
        bucket = (kind, decay, _rate_factor(weight, options), block)
        buckets.setdefault(bucket, []).append((weight.name, weight.parameter))
    groups = [
        {
            "params": pairs,
            "kind": kind,
            "lr": options.learning_rate * factor,
            "rate_factor": factor,
            "weight_decay": decay,
            **({"block": block} if kind == "adam_mini" else {}),
        }
        for (kind, decay, factor, block), pairs in buckets.items()
    ]
    makers = {kind: _maker(kind, options) for kind in dict.fromkeys(str(group["kind"]) for group in groups)}
    return MasterOptimizer(groups, makers, masters=options.masters)


def _rate_factor(weight: Weight, options: OptimizerOptions) -> float:
    if options.loraplus_lr_ratio is None:
        return 1.0
    if "lora_embedding_" in weight.name:
        return options.loraplus_lr_embedding / options.learning_rate if options.learning_rate else 1.0
    return options.loraplus_lr_ratio if "lora_B" in weight.name or weight.vector else 1.0


# -- what makes each kind -------------------------------------------------------------------------------------


def _maker(kind: str, options: OptimizerOptions) -> Make:
    """What makes the optimizer of a kind; packages are looked for now, not at the first step."""
    extras = dict(options.extras) if _KINDS[options.name] == kind else {}
    make = _MAKERS[kind](options)

    def made(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return make(groups, **extras)
        except (TypeError, ValueError) as error:
            raise BurnishError(
                f"the optimizer {options.name} refuses its values: {error}",
                at="optim_args",
                fix="leave it out, or see docs/optimizers.md for what each optimizer takes",
            ) from error

    return made


def _adamw(options: OptimizerOptions) -> Callable[..., torch.optim.Optimizer]:
    def make(groups: list[dict[str, Any]], **extras: Any) -> torch.optim.Optimizer:
        devices = {parameter.device.type for group in groups for parameter in group["params"]}
        fused = options.name != "adamw_torch" and devices <= set(_FUSED_ON)
        return torch.optim.AdamW(
            groups, betas=options.betas, eps=options.epsilon, fused=True if fused else None, **extras
        )

    return make


def _muon(options: OptimizerOptions) -> Callable[..., torch.optim.Optimizer]:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise BurnishError(
            f"torch {torch.__version__} has no Muon", at="optim", fix="pip install -U 'torch>=2.9', or use adamw_torch"
        )
    # At AdamW's own size of update, so that its learning rate and weight decay fit: arXiv:2502.16982, section 2.2.
    return lambda groups, **extras: muon(groups, **{"adjust_lr_fn": "match_rms_adamw", **extras})


def _adafactor(options: OptimizerOptions) -> Callable[..., torch.optim.Optimizer]:
    from transformers.optimization import Adafactor

    return lambda groups, **extras: Adafactor(groups, scale_parameter=False, relative_step=False, **extras)


def _bitsandbytes(name: str, bits: int) -> Callable[[OptimizerOptions], Callable[..., torch.optim.Optimizer]]:
    def find(options: OptimizerOptions) -> Callable[..., torch.optim.Optimizer]:
        try:
            import bitsandbytes
        except ImportError as error:
            raise MissingExtraError(f"optim: {options.name}", "quant") from error
        values: dict[str, Any] = {"betas": options.betas, "optim_bits": bits}
        if name == "AdamW":
            values["eps"] = options.epsilon

        def make(groups: list[dict[str, Any]], **extras: Any) -> torch.optim.Optimizer:
            paged = options.name.startswith("paged_")
            if paged and all(parameter.device.type == "cpu" for group in groups for parameter in group["params"]):
                log.note(f"{options.name} pages its state only on a GPU; here it stays in memory")
                paged = False
            return getattr(bitsandbytes.optim, name)(groups, is_paged=paged, **values, **extras)

        return make

    return find


_MAKERS: Mapping[str, Callable[[OptimizerOptions], Callable[..., torch.optim.Optimizer]]] = {
    "adamw": _adamw,
    "adamw_8bit": _bitsandbytes("AdamW", 8),
    "adamw_32bit": _bitsandbytes("AdamW", 32),
    "lion": lambda options: lambda groups, **extras: Lion(groups, betas=options.betas, **extras),
    "lion_8bit": _bitsandbytes("Lion", 8),
    "lion_32bit": _bitsandbytes("Lion", 32),
    "adafactor": _adafactor,
    "sgd": lambda _: torch.optim.SGD,
    "adagrad": lambda _: torch.optim.Adagrad,
    "rmsprop": lambda _: torch.optim.RMSprop,
    "muon": _muon,
    "adam_mini": lambda options: (
        lambda groups, **extras: AdamMini(groups, betas=options.betas, eps=options.epsilon, **extras)
    ),
}
