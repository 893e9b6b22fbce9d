"""An engine in the place of vLLM's whose answers a script gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests import fake_vllm
from tests.fake_vllm import CompletionOutput, EngineArgs, Logprob, ModelConfig, RequestOutput, SamplingParams


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
        self.closed = 0
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)
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

    def _shutdown(self, timeout: float | None = None) -> None:
        self.closed += 1

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
    """Put it in vLLM's place."""
    engine = type("LLMEngine", (LLMEngine,), {"script": staticmethod(script)})
    fake_vllm.install(monkeypatch, engine)
    return engine
