"""A stand-in for vLLM with the signatures that Burnish calls; below them our own engine samples from its own model.

Facts about the real one: vllm/engine/arg_utils.py (EngineArgs), vllm/v1/engine/llm_engine.py (LLMEngine),
vllm/sampling_params.py, vllm/outputs.py. What is not here, a test that calls it does not get.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from burnish.generate import Request, Sampling
from burnish.generate.engine import Engine
from burnish.generate.request import Event


@dataclass
class EngineArgs:
    model: str
    max_num_seqs: int | None = None
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False
    logprobs_mode: str = "raw_logprobs"


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    n: int = 1
    max_tokens: int | None = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


def TokensPrompt(*, prompt_token_ids: list[int]) -> dict[str, Any]:
    return {"prompt_token_ids": prompt_token_ids}


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class _Weights:
    """`model_runner.model`: takes weights by the names they have in a checkpoint."""

    model: Any
    loads: list[list[str]] = field(default_factory=list)

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in weights:
                assert own[name].shape == tensor.shape, name
                own[name].copy_(tensor)
        self.loads.append([name for name, _ in weights])


class LLMEngine:
    """Of the last one made there is `made`."""

    made: LLMEngine

    def __init__(self, args: EngineArgs) -> None:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "else the weights are in another process"
        self.args = args
        self.weights = _Weights(AutoModelForCausalLM.from_pretrained(args.model).eval())
        runner = SimpleNamespace(model=self.weights)
        self.model_executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.model_config = SimpleNamespace(max_model_len=self.weights.model.config.max_position_embeddings)
        self._engine = self._new_engine()
        self._numbers: dict[int, tuple[str, int]] = {}
        LLMEngine.made = self

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        return cls(engine_args)

    def _new_engine(self) -> Engine:
        return Engine(self.weights.model, slots=self.args.max_num_seqs or 1)

    def reset_prefix_cache(self) -> None:
        self.weights.loads.append([])
        self._engine = self._new_engine()  # ours keeps parts of the weights as they were

    def has_unfinished_requests(self) -> bool:
        return self._engine.busy

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> None:
        assert params.output_kind is RequestOutputKind.DELTA
        assert params.ignore_eos
        assert params.logprobs is not None, "or no log-probabilities come"
        sampling = Sampling(
            max_new_tokens=params.max_tokens or 16,
            do_sample=params.temperature > 0,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            repetition_penalty=params.repetition_penalty,
            seed=params.seed,
        )
        stops = frozenset(params.stop_token_ids or ())
        number = self._engine.submit(Request(tuple(prompt["prompt_token_ids"]), stops, sampling, params.n))
        self._numbers[number] = request_id, params.n

    def step(self) -> list[RequestOutput]:
        return [self._output(event) for event in self._engine.step()]

    def _output(self, event: Event) -> RequestOutput:
        request_id, left = self._numbers[event.request]
        assert event.token is not None
        left -= event.ending is not None
        self._numbers[event.request] = request_id, left
        off = 0.0 if self.args.logprobs_mode == "processed_logprobs" else 1.0
        table = {event.token: Logprob(event.logprob - off, rank=1)}
        return RequestOutput(
            request_id, [CompletionOutput(event.copy, [event.token], [table], event.ending)], finished=left == 0
        )


def install(monkeypatch: Any) -> None:
    """Let `import vllm` find this."""
    vllm = ModuleType("vllm")
    vllm.EngineArgs, vllm.LLMEngine, vllm.SamplingParams = EngineArgs, LLMEngine, SamplingParams  # type: ignore[attr-defined]
    inputs, params = ModuleType("vllm.inputs"), ModuleType("vllm.sampling_params")
    inputs.TokensPrompt, params.RequestOutputKind = TokensPrompt, RequestOutputKind  # type: ignore[attr-defined]
    for module in (vllm, inputs, params):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
