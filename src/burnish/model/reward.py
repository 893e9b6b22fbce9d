"""A scalar head on a language model: what makes a reward model of it, and the file that keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from burnish.errors import ModelError
from burnish.model.save import without_adapter
from burnish.model.source import ModelSource

HEAD_FILE = "value_head.safetensors"
"""Holds `v_head.summary.weight` [1, E] and `v_head.summary.bias` [1], the names that other tools use as well."""
CRITIC_FILE = "critic_head.safetensors"
"""The same for the head that ppo trains beside its policy: a model with this file beside it is no reward model."""
_PREFIX = "v_head."


class ValueHead(nn.Module):
    """One number from a hidden state, in float32; `file` is the name it is saved under."""

    def __init__(self, hidden_size: int, file: str = HEAD_FILE) -> None:
        super().__init__()
        self.file = file
        self.summary = nn.Linear(hidden_size, 1, dtype=torch.float32)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, E], any float dtype → [N] float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.summary(hidden.float()).squeeze(-1)


def attach_value_head(model: Any, *, seed: int, critic: bool = False) -> None:
    """Give a model, below its adapters, a fresh trainable head `v_head`.

    Weights are drawn with a deviation of 1 / sqrt(E + 1), the bias is 0: scores begin with a spread of about one for
    hidden states of unit variance. Source: Stiennon et al., arXiv:2009.01325, appendix B.1. Those of a `critic` are 0,
    so that it expects nothing before it has learnt something.
    """
    inner = without_adapter(model)
    size = inner.config.get_text_config().hidden_size
    head = ValueHead(size, CRITIC_FILE if critic else HEAD_FILE)
    spread = 0.0 if critic else (size + 1) ** -0.5
    nn.init.normal_(head.summary.weight, std=spread, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.summary.bias)
    inner.v_head = head.to(next(inner.parameters()).device)


def value_head(model: Any) -> ValueHead:
    """The head of a reward model."""
    return without_adapter(model).v_head


def has_value_head(model: Any) -> bool:
    """Whether a model in memory is a reward model."""
    return hasattr(without_adapter(model), "v_head")


@contextmanager
def value_head_apart(model: Any) -> Iterator[None]:
    """While the block runs, the model is a language model without its head, if it has one."""
    inner = without_adapter(model)
    head = getattr(inner, "v_head", None)
    if head is not None:
        del inner.v_head
    try:
        yield
    finally:
        if head is not None:
            inner.v_head = head


def split_head(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a model by name, as those of its head, by the names of the file, and all others."""
    head = {_PREFIX + name.partition(_PREFIX)[2]: value for name, value in weights.items() if _PREFIX in name}
    return head, {name: value for name, value in weights.items() if _PREFIX not in name}


def save_value_head(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the head beside the weights of its model.

    Args:
        weights: its tensors by the names of the file, for a model that holds only shards of them; where there are
            none (a rehearsal), and by default, its own.
    """
    from safetensors.torch import save_file

    state = weights or {_PREFIX + name: value.detach() for name, value in value_head(model).state_dict().items()}
    tensors = {name: value.cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / value_head(model).file, metadata={"format": "pt"})


def head_folder(source: ModelSource) -> Path | None:
    """The folder among those a model comes from that holds a head; None where it is no reward model."""
    folders = [Path(source.location), *(Path(adapter) for adapter in source.adapters)]
    return next((folder for folder in reversed(folders) if (folder / HEAD_FILE).is_file()), None)


def load_value_head(model: Any, folder: Path) -> None:
    """Put a saved head into a model that has one.

    Raises:
        ModelError: there is none, or it is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / value_head(model).file
    try:
        tensors = {name.removeprefix(_PREFIX): value for name, value in load_file(file).items()}
        value_head(model).load_state_dict(tensors)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the head of the reward model cannot be read: {str(error).strip().splitlines()[-1].strip()[:200]}",
            at=str(file),
            fix="give the folder of a run with stage: rm, with the model it was trained on",
        ) from error
