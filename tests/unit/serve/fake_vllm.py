"""A stand-in for vLLM with the signatures of its documentation (0.32): an unknown argument is a TypeError."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
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


@dataclass
class _Row:
    params: SamplingParams
    left: dict[int, list[int]]
    made: dict[int, int] = field(default_factory=dict)


class LLMEngine:
    """Answers from `script(prompt ids, copy) → tokens`; two tokens a step where `pairs` is set."""

    script: Any = staticmethod(lambda prompt, copy: [])
    pairs = False

    def __init__(self, engine_args: EngineArgs) -> None:
        self.engine_args, self.model_config = engine_args, ModelConfig()
        self.asked: list[SamplingParams] = []
        self.aborted: list[str] = []
        self._rows: dict[str, _Row] = {}

    @classmethod
    def from_engine_args(
        cls, engine_args: EngineArgs, usage_context: Any = None, stat_loggers: Any = None,
        enable_multiprocessing: bool = False,
    ) -> LLMEngine:  # fmt: skip
        return cls(engine_args)

    def add_request(
        self, request_id: str, prompt: Any, params: SamplingParams, arrival_time: float | None = None,
        lora_request: Any = None, tokenization_kwargs: Any = None, trace_headers: Any = None, priority: int = 0,
        prompt_text: str | None = None,
    ) -> str:  # fmt: skip
        assert isinstance(request_id, str)
        if len(prompt["prompt_token_ids"]) >= self.model_config.max_model_len:
            raise ValueError("The decoder prompt is longer than the maximum model length.\nMore words.")
        self.asked.append(params)
        rows = {copy: list(self.script(prompt["prompt_token_ids"], copy)) for copy in range(params.n)}
        self._rows[request_id] = _Row(params, rows, dict.fromkeys(rows, 0))
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        self.aborted += request_ids
        for each in request_ids:
            self._rows.pop(each, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self._rows)

    def step(self) -> list[RequestOutput]:
        return [self._next(request_id, row) for request_id, row in list(self._rows.items())]

    def _next(self, request_id: str, row: _Row) -> RequestOutput:
        outputs = []
        for copy, left in list(row.left.items()):
            taken = [left.pop(0) for _ in range(2 if self.pairs else 1) if left]
            room = (row.params.max_tokens or 0) - row.made[copy]
            taken, reason = taken[:room], None
            row.made[copy] += len(taken)
            stops = [place for place, token in enumerate(taken) if token in (row.params.stop_token_ids or ())]
            if stops:
                taken, reason = taken[: stops[0] + 1], "stop"
            elif len(taken) == room or not left:
                reason = "length"
            if reason:
                del row.left[copy]
            tables = None if row.params.logprobs is None else [_table(each, row.params.logprobs) for each in taken]
            outputs.append(CompletionOutput(copy, "", taken, None, tables, reason))
        if not row.left:
            del self._rows[request_id]
        return RequestOutput(request_id, None, None, None, outputs, not row.left)


def _table(token: int, count: int) -> dict[int, Logprob]:
    """The sampled token, the second likeliest, and as many of the likeliest as are asked for."""
    first = {token + 1: Logprob(-0.25, 1)} if count else {}
    return {token: Logprob(-0.5, 2)} | first


def install(monkeypatch: Any, script: Any) -> type[LLMEngine]:
    """Put the stand-in in vLLM's place."""
    engine = type("LLMEngine", (LLMEngine,), {"script": staticmethod(script)})
    for name, members in {
        "vllm": {"EngineArgs": EngineArgs, "LLMEngine": engine, "SamplingParams": SamplingParams},
        "vllm.inputs": {"TokensPrompt": TokensPrompt},
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind, "SamplingParams": SamplingParams},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return engine
