"""The model as the loop sees it: a batch in, the summed loss of its supervised tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from burnish.batch.collate import Batch
from burnish.errors import BurnishError
from burnish.kernels.linear_cross_entropy import linear_cross_entropy
from burnish.losses import LossSum, TokenLosses, token_cross_entropy
from burnish.model.adapter import head_weight
from burnish.model.save import without_adapter
from burnish.user_code import own_code

OwnLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits [N, V] float32, labels [N] int64, weights [N] float32) → (sum, count), scalars; the loop divides."""


class SupervisedLoss(nn.Module):
    """A causal language model and the cross-entropy of chosen tokens.

    It is a module of its own so that DDP and FSDP wrap the whole of what is differentiated. Logits are computed at
    supervised positions only; where the head is a plain linear layer they exist a chunk at a time.

    Args:
        smoothing: label smoothing in training; the loss on held-out data is always the plain one.
        accuracy: also tell the share of tokens that are the likeliest ones.
        own: a loss to use instead; all logits of the supervised positions then exist at once.
        datasets: names of the datasets that `Batch.datasets` counts; in training each has a loss of its own.
    """

    def __init__(
        self,
        model: Any,
        *,
        packed: bool,
        smoothing: float = 0.0,
        accuracy: bool = False,
        own: OwnLoss | None = None,
        datasets: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.packed = packed
        self.smoothing, self.accuracy, self.own, self.datasets = smoothing, accuracy, own, tuple(datasets)

    def forward(self, batch: Batch) -> LossSum:
        """Sum the loss over a batch's supervised tokens: nats, and the summed weights, both float32 scalars."""
        targets, weights = batch.loss_targets, batch.loss_weights
        wishes: dict[str, Any] = {"smoothing": self.smoothing if self.training else 0.0, "want_hits": self.accuracy}
        if self.own is not None:
            logits = supervised_logits(self.model, batch, packed=self.packed).float()
            total, count = _checked(self.own, logits, targets, weights)
            return LossSum(total, count, self._figures(batch, token_cross_entropy(logits.detach(), targets, **wishes)))
        found, weight = before_the_loss(self.model, batch, packed=self.packed)
        if weight is None:
            losses = token_cross_entropy(found, targets, weights, **wishes)
        else:
            losses = linear_cross_entropy(found, weight, targets, weights, **wishes)
        return LossSum(losses.total, losses.count, self._figures(batch, losses))

    def _figures(self, batch: Batch, losses: TokenLosses) -> dict[str, tuple[Tensor, Tensor]]:
        figures: dict[str, tuple[Tensor, Tensor]] = {}
        weights = batch.loss_weights
        if losses.hits is not None:
            trained = weights > 0
            figures["accuracy"] = ((losses.hits & trained).sum(), trained.sum())
        if batch.datasets is not None and self.training:
            groups = torch.tensor(batch.datasets, device=weights.device)[batch.loss_documents]  # [N]
            for number in sorted(set(batch.datasets)):
                own = weights * (groups == number)
                figures[f"loss_{self.datasets[number]}"] = ((losses.nats * own).sum(), own.sum())
        return figures


def before_the_loss(model: Any, batch: Batch, *, packed: bool) -> tuple[Tensor, Tensor | None]:
    """What the loss of the supervised positions is made from: as little as the model's head allows.

    Returns:
        The hidden states there, [N, E], and the head's matrix, [V, E], where logits are no more than their product, so
        that they need not exist all at once; else the logits, [N, V], and None.
    """
    inner = without_adapter(model)
    if not only_a_head(inner):
        return supervised_logits(model, batch, packed=packed), None
    head = inner.get_output_embeddings()
    rows = last_hidden(model, batch, packed=packed).flatten(0, 1)[batch.loss_positions]
    # Not before: an engine that cuts weights up takes this one away when the embeddings, tied to it, are done.
    weight = head_weight(head)
    return (head(rows), None) if weight is None else (rows, weight)


def last_hidden(model: Any, batch: Batch, *, packed: bool) -> Tensor:
    """The hidden states before the output head, [B, T, E]."""
    inner = without_adapter(model)
    return getattr(inner, inner.base_model_prefix)(**model_arguments(model, batch, packed=packed)).last_hidden_state


def supervised_logits(model: Any, batch: Batch, *, packed: bool) -> Tensor:
    """Logits at the supervised positions, [N, V]."""
    inner, arguments = without_adapter(model), model_arguments(model, batch, packed=packed)
    if batch.input_ids.shape[0] == 1:
        return inner(**arguments, logits_to_keep=batch.loss_positions).logits[0]
    return inner(**arguments).logits.flatten(0, 1)[batch.loss_positions]


def model_arguments(model: Any, batch: Batch, *, packed: bool) -> dict[str, Any]:
    """What a model's forward pass takes of a batch."""
    arguments: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    if not packed:
        arguments["attention_mask"] = batch.attention_mask
        return arguments
    config = model.config.get_text_config()
    if config._attn_implementation.startswith("flash_attention"):
        lengths = torch.tensor(batch.document_lengths, dtype=torch.int32, device=batch.input_ids.device)
        ends = nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))  # [documents + 1]
        longest = max(batch.document_lengths)
        arguments |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        arguments |= {"max_length_q": longest, "max_length_k": longest}
    else:
        arguments["document_lengths"] = batch.document_lengths
        if batch.shared_prompts is not None:
            arguments["shared_prompts"] = batch.shared_prompts
    return arguments


# What a model may do to logits after the head; such a model's own forward pass computes them.
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap", "lm_head_multiplier")


def only_a_head(model: Any) -> bool:
    """Whether nothing stands between the last hidden states and the logits but the head."""
    if not hasattr(model, model.base_model_prefix):
        return False
    config = model.config.get_text_config()
    return all(getattr(config, name, None) in (None, 1, 1.0) for name in _AFTER_THE_HEAD)


def _checked(own: OwnLoss, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What the user's own loss gives, refused where the loop could not use it."""
    with own_code("loss_function", getattr(own, "__name__", "the loss")):
        given = own(logits, targets, weights)
    usable = isinstance(given, tuple | list) and len(given) >= 2
    pair = [torch.as_tensor(value, dtype=torch.float32, device=logits.device) for value in given[:2]] if usable else []
    if len(pair) != 2 or any(value.numel() != 1 for value in pair):
        raise BurnishError(
            "the loss function must return a sum and a count, both single numbers",
            at="loss_function",
            fix="return (losses * weights).sum(), weights.sum(); Burnish divides once, over all devices",
        )
    if torch.is_grad_enabled() and logits.requires_grad and not pair[0].requires_grad:
        raise BurnishError(
            "the loss function's sum does not depend on the logits, so there is nothing to learn from",
            at="loss_function",
            fix="compute it from the logits with torch operations, without .item() or detach()",
        )
    return pair[0].reshape(()), pair[1].reshape(())
