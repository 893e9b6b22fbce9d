"""A stage is a value made of functions: what becomes of the records, and what module computes the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.batch.chunks import MakeChunk
from burnish.batch.collate import Batch
from burnish.batch.prepare import Prepared
from burnish.config import Settings
from burnish.registry import LazyTable
from burnish.template import Example

STAGES = LazyTable("stage")
STAGES.add("sft", "burnish.train.stages.sft:STAGE")
STAGES.add("pt", "burnish.train.stages.pt:STAGE")


@dataclass(frozen=True)
class Stage:
    """One way of training.

    Attributes:
        name: as in `stage:`.
        chunk: (samples, template, label options) → Chunk; the work of one process, found by its name.
        prepare: the same in memory, for looking at: → Prepared.
        collate: (examples, sample numbers, packed, pad id) → Batch.
        chats: whether the tuned model speaks by the chat template, which is then saved with it.
        module: (settings, model, packed, names of the datasets) → a module whose forward takes a Batch and returns a
            LossSum.
    """

    name: str
    chunk: MakeChunk
    prepare: Callable[..., Prepared]
    collate: Callable[[Sequence[Example], Sequence[int], bool, int], Batch]
    module: Callable[[Settings, Any, bool, Sequence[str]], Any]
    chats: bool = True
