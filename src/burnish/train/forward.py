"""The model as the loop sees it: a batch in, the summed loss of its supervised tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from burnish.batch.collate import Batch
from burnish.kernels.linear_cross_entropy import linear_cross_entropy
from burnish.losses import LossSum, token_cross_entropy
from burnish.model.save import without_adapter


class SupervisedLoss(nn.Module):
    """A causal language model and the cross-entropy of chosen tokens.

    It is a module of its own so that DDP and FSDP wrap the whole of what is differentiated. Logits are computed at
    supervised positions only; where the head is a plain linear layer they exist a chunk at a time.
    """

    def __init__(self, model: Any, *, packed: bool) -> None:
        super().__init__()
        self.model = model
        self.packed = packed

    def forward(self, batch: Batch) -> LossSum:
        """Sum the loss over a batch's supervised tokens: nats, and the summed weights, both float32 scalars."""
        inner = without_adapter(self.model)
        head = inner.get_output_embeddings()
        arguments = self._arguments(batch)
        if _plain_head(inner, head):
            hidden = getattr(inner, inner.base_model_prefix)(**arguments).last_hidden_state  # [B, T, E]
            rows = hidden.flatten(0, 1)[batch.loss_positions]  # [N, E]
            return linear_cross_entropy(rows, head.weight, batch.loss_targets, batch.loss_weights)
        if batch.input_ids.shape[0] == 1:
            logits = inner(**arguments, logits_to_keep=batch.loss_positions).logits[0]  # [N, V]
        else:
            logits = inner(**arguments).logits.flatten(0, 1)[batch.loss_positions]  # [N, V]
        return token_cross_entropy(logits, batch.loss_targets, batch.loss_weights)

    def _arguments(self, batch: Batch) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }
        if not self.packed:
            arguments["attention_mask"] = batch.attention_mask
            return arguments
        config = self.model.config.get_text_config()
        if config._attn_implementation.startswith("flash_attention"):
            lengths = torch.tensor(batch.document_lengths, dtype=torch.int32, device=batch.input_ids.device)
            ends = nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))  # [documents + 1]
            longest = max(batch.document_lengths)
            arguments |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            arguments |= {"max_length_q": longest, "max_length_k": longest}
        else:
            arguments["document_lengths"] = batch.document_lengths
        return arguments


# What a model may do to logits after the head; such a model's own forward pass computes them.
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap", "lm_head_multiplier")


def _plain_head(model: Any, head: Any) -> bool:
    if type(head) is not nn.Linear or head.bias is not None or not hasattr(model, model.base_model_prefix):
        return False
    config = model.config.get_text_config()
    return all(getattr(config, name, None) in (None, 1, 1.0) for name in _AFTER_THE_HEAD)


def as_floats(loss: LossSum) -> tuple[float, float]:
    """(total, count) as Python numbers; waits for the device."""
    pair: Tensor = torch.stack([loss.total.detach().float(), loss.count.detach().float()])
    total, count = pair.tolist()
    return total, count
