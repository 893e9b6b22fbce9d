"""vLLM behind the server, where it is installed."""

from __future__ import annotations

from burnish.generate.vllm import load_vllm_engine
from burnish.model.source import ModelSource
from burnish.serve.worker import Backend


def load_vllm(source: ModelSource, *, slots: int) -> Backend:
    """Load a model into vLLM.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    return Backend(load_vllm_engine(source, slots=slots), "vllm", slots, shapes_logits=False)
