"""vLLM behind the server, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.generate.vllm import load_vllm_engine
from burnish.model.source import ModelSource
from burnish.serve.bodies import MOST_ALTERNATIVES
from burnish.serve.worker import Backend


def load_vllm(source: ModelSource, *, slots: int, loading: Mapping[str, Any]) -> Backend:
    """Load whole weights into vLLM.

    Args:
        loading: `infer_dtype`, `trust_remote_code` and `hub`, as for our own engine.
    Raises:
        MissingExtraError: vLLM is not installed.
    """
    hub = {} if source.local else loading.get("hub", {})
    engine = load_vllm_engine(
        source,
        slots=slots,
        dtype=loading.get("infer_dtype", "auto"),
        trust_remote_code=loading.get("trust_remote_code", False),
        revision=hub.get("revision"),
        download_dir=hub.get("cache_dir"),
        hf_token=hub.get("token"),
        max_logprobs=MOST_ALTERNATIVES,
    )
    return Backend(engine, "vllm", slots, shapes_logits=False, close=engine.close)
