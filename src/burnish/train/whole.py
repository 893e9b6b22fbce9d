"""A whole copy of a model whose weights are cut into shards, for the time in which answers are sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from burnish.model.save import without_adapter
from burnish.train.engine import Engine


class WholeCopy:
    """A model beside the one that is cut up, whose weights are in memory only while they are used.

    It computes without the other processes, so each may take as many forward passes as its answers need. To be made
    before the weights are cut into shards, and filled on all processes at the same time.

    Args:
        source: the model that is trained, with its adapters.
        engine: gathers its weights.
    """

    def __init__(self, source: Any, engine: Engine) -> None:
        self._source, self._engine = source, engine
        # What is copied: everything but the weights, of which each gets a place without memory.
        places: dict[int, Any] = {id(one): _place(one, engine.device) for one in source.parameters()}
        places |= {id(buffer): buffer.detach().to(engine.device, copy=True) for buffer in source.buffers()}
        self.model = deepcopy(source, places)
        self.model.eval()
        inner = without_adapter(self.model)
        inner.gradient_checkpointing_disable()
        self.megabytes = sum(one.numel() * one.element_size() for one in self.model.parameters()) / 1e6

    @contextmanager
    def filled(self) -> Iterator[Any]:
        """In this block the copy has the weights as they are now; called on all processes."""
        weights = dict(self.model.named_parameters())
        try:
            with torch.no_grad():
                for one in weights.values():
                    one.untyped_storage().resize_(one.numel() * one.element_size())
                # Written in place: what looks whether weights have changed goes by their version.
                self._engine.copy_weights(self._source, weights)
            yield self.model
        finally:
            for one in weights.values():
                one.untyped_storage().resize_(0)


def _place(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    found = nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=False)
    found.untyped_storage().resize_(0)
    return found
