"""An engine in the place of vLLM's that samples from the model it was given, with our own engine, and takes weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from burnish.generate import Request, Sampling
from burnish.generate.engine import Engine
from burnish.generate.request import Event
from tests import fake_vllm
from tests.fake_vllm import CompletionOutput, EngineArgs, Logprob, RequestOutput, RequestOutputKind, SamplingParams


@dataclass
class _Weights:
    """The worker's weights: taken by the names they have in a checkpoint, all of them at each reload."""

    model: Any
    loads: list[list[str]] = field(default_factory=list)

    def reload_weights(self, weights_iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        names = []
        with torch.no_grad():
            for name, tensor in weights_iterator:
                assert own[name].shape == tensor.shape, name
                own[name].copy_(tensor)
                names.append(name)
        assert set(names) == set(own), "vLLM begins a reload with empty layers"
        self.loads.append(names)


class LLMEngine:
    """Of the last one made there is `made`."""

    made: LLMEngine

    def __init__(self, args: EngineArgs) -> None:
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "else the weights are in another process"
        self.args = args
        self.weights = _Weights(AutoModelForCausalLM.from_pretrained(args.model).eval())
        self.model_config = SimpleNamespace(max_model_len=self.weights.model.config.max_position_embeddings)
        self._engine = self._new_engine()
        self._numbers: dict[int, tuple[str, int]] = {}
        self.closed = 0
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)
        LLMEngine.made = self

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        return cls(engine_args)

    def _new_engine(self) -> Engine:
        return Engine(self.weights.model, slots=self.args.max_num_seqs or 1)

    def _shutdown(self, timeout: float | None = None) -> None:
        self.closed += 1

    def reset_prefix_cache(self) -> None:
        self.weights.loads.append([])
        self._engine = self._new_engine()  # ours keeps parts of the weights as they were

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> list[Any]:
        return [getattr(self.weights, method)(*args, **(kwargs or {}))]

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
        made = CompletionOutput(event.copy, "", [event.token], None, [table], event.ending)
        return RequestOutput(request_id, None, None, None, [made], finished=left == 0)


def install(monkeypatch: Any) -> None:
    """Put it in vLLM's place."""
    fake_vllm.install(monkeypatch, LLMEngine)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
