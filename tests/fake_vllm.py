"""What Burnish calls of vLLM, with the signatures of its documentation (0.32): an unknown argument is a TypeError.

Facts about the real one: vllm/engine/arg_utils.py (EngineArgs), vllm/v1/engine/llm_engine.py (LLMEngine),
vllm/sampling_params.py, vllm/outputs.py. The engines that stand in for vLLM's are in other files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, TypedDict


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: Any = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


class TokensPrompt(TypedDict, total=False):
    prompt_token_ids: list[int]


@dataclass
class EngineArgs:
    model: str
    tokenizer: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None
    download_dir: str | None = None
    hf_token: Any = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_logprobs: int = 20
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.9
    logprobs_mode: str = "raw_logprobs"


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: Any
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class ModelConfig:
    max_model_len: int = 512


def install(monkeypatch: Any, engine: type) -> None:
    """Let `import vllm` find these, with this engine."""
    for name, members in {
        "vllm": {"EngineArgs": EngineArgs, "LLMEngine": engine, "SamplingParams": SamplingParams},
        "vllm.inputs": {"TokensPrompt": TokensPrompt},
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind, "SamplingParams": SamplingParams},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
