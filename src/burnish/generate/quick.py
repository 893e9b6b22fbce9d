"""Which steps of generation run in native code, and the proof that they give what the model itself gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from burnish.kernels.cached_attention import SlotStore
from burnish.kernels.native import CannotCompile
from burnish.log import aside, logger
from burnish.model.decoding import Decoder, NotUnderstood

NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far logits may be from the model's own, as a share of the largest; another formula than the model's is beyond."""
_proven: WeakKeyDictionary[Any, set[Any]] = WeakKeyDictionary()  # of each model, what was tried and found equal
_told: set[str] = set()


class QuickSteps:
    """The steps of one set of rows.

    The first native step of a model is done both ways. Where they differ, and where the kernel does not do what the
    model needs, every step is the model's own, and one line says so. `BURNISH_DECODE=plain` has the same effect.
    """

    def __init__(self, model: Any, slots: int) -> None:
        self._model, self._slots = model, slots
        self._decoder: Decoder | None = None
        self._never = os.environ.get("BURNISH_DECODE") == "plain" or device_of(model).type != "cpu"

    def look(self) -> None:
        """Before rows begin: make a decoder, or a new one where the weights or the adapters are others."""
        if self._never or (self._decoder and self._decoder.fresh):
            return
        self._decoder = None
        try:
            self._decoder = Decoder(self._model, self._slots)
        except (NotUnderstood, CannotCompile) as reason:
            self._give_up(str(reason))

    def step(
        self, tokens: Sequence[int], places: Sequence[int], store: SlotStore, plainly: Callable[[], Tensor]
    ) -> Tensor:
        """Logits [B, V] float32 behind each row's new token, whose keys and values are then in the store."""
        if self._decoder is None:
            return plainly()
        proven = _proven.setdefault(self._model, set())
        at = torch.tensor(places)
        if self._decoder.kind in proven:
            return self._decoder.step(tokens, at, store.keys, store.values)
        wanted = plainly()
        given = self._decoder.step(tokens, at, store.keys, store.values)
        apart = ((given - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)).item()
        if apart <= NEAR[self._decoder.dtype]:
            proven.add(self._decoder.kind)
            return given  # so that a run that goes on in another process makes the same tokens, to the bit
        self._decoder = None
        self._give_up(f"it gives logits that are {apart:.2g} apart from the model's own")
        return plainly()  # for the keys, which were written over

    def _give_up(self, reason: str) -> None:
        self._never = True
        tell_once(f"tokens are made without the decoding kernel: {reason}")


def tell_once(text: str) -> None:
    """Say something about a model once in a process; the log has it each time."""
    if text not in _told:
        _told.add(text)
        aside(text)
    else:
        logger.info(text)


def device_of(model: Any) -> torch.device:
    """Where the inputs of a model belong."""
    device: torch.device = model.get_input_embeddings().weight.device
    return device
