"""What the optimizers need to know of each trained weight: is it a table, a matrix, half of an adapter?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from burnish.train.optimizers.adam_mini import COLUMNS, WHOLE

_HEADS = ("lm_head", "score", "classifier", "v_head")
_QUERY_AND_KEY = ("q_proj", "k_proj", "wq", "wk", "query", "key")


@dataclass(frozen=True)
class Weight:
    """A trained parameter.

    Attributes:
        table: an embedding or an output head, or an adapter on an embedding: a row for each token.
        block: rows that share a second moment in Adam-mini, or WHOLE or COLUMNS.
    """

    name: str
    parameter: nn.Parameter
    table: bool
    block: int

    @property
    def vector(self) -> bool:
        """Biases, norms and DoRA's magnitudes; no weight decay."""
        return self.parameter.ndim < 2

    @property
    def hidden_matrix(self) -> bool:
        """A matrix between two hidden layers; LoRA's factors are such, a stack of experts is not."""
        return self.parameter.ndim == 2 and not self.table


def trained_weights(model: nn.Module) -> list[Weight]:
    """Every parameter of a model that is trained, in the model's order; tied ones once."""
    tables = _tables(model)
    columns = {
        id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"
    }  # GPT-2's layers hold [inputs, outputs]: an output neuron is a column
    head_rows = _head_rows(model)
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = id(parameter) in tables or "lora_embedding_" in name or any(p in _HEADS for p in name.split("."))
        block = WHOLE if parameter.ndim < 2 else COLUMNS if id(parameter) in columns else 1
        by_head = head_rows > 0 and any(part in _QUERY_AND_KEY for part in name.split(".")) and ".lora_A." not in name
        if block == 1 and by_head and parameter.shape[0] % head_rows == 0:
            block = head_rows
        found.append(Weight(name, parameter, table, block))
    return found


def _tables(model: nn.Module) -> set[int]:
    """The ids of the parameters of embeddings and of the output head."""
    layers = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", None)
    layers += [head()] if callable(head) and head() is not None else []
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def _head_rows(model: Any) -> int:
    """Rows of one attention head in a query's or key's weight; 0 where the model does not say."""
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    heads, width = (getattr(config, key, None) for key in ("num_attention_heads", "hidden_size"))
    return int(getattr(config, "head_dim", None) or (width // heads if heads and width else 0))
