"""Pretraining: the cross-entropy of every token of plain text."""

from __future__ import annotations

from burnish.batch.chunks import document_chunk
from burnish.batch.collate import collate
from burnish.train.stages import Stage
from burnish.train.stages.sft import module

STAGE = Stage("pt", document_chunk, collate, module, chats=False)
