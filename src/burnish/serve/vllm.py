"""vLLM as an engine, where it is installed: whole weights, our rendering, its scheduler.

Written from vLLM's documentation, and tested against a stand-in with its signatures; it was never run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from burnish.errors import MissingExtraError, ModelError
from burnish.generate.request import Ending, Event, Request
from burnish.model.source import ModelSource
from burnish.serve.bodies import MOST_ALTERNATIVES
from burnish.serve.worker import Backend


def load_vllm(source: ModelSource, *, slots: int, loading: Mapping[str, Any] = MappingProxyType({})) -> Backend:
    """Load a model into vLLM.

    Args:
        loading: `infer_dtype`, `trust_remote_code` and `hub`, as in `load_chat_model`.
    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError as error:
        raise MissingExtraError("the engine vllm", "vllm") from error
    hub = {} if source.local else loading.get("hub", {})
    wanted = EngineArgs(
        model=source.location,
        dtype=loading.get("infer_dtype", "auto"),
        trust_remote_code=loading.get("trust_remote_code", False),
        revision=hub.get("revision"),
        download_dir=hub.get("cache_dir"),
        hf_token=hub.get("token"),
        max_num_seqs=slots,
        max_logprobs=MOST_ALTERNATIVES,
        enable_prefix_caching=True,
    )
    engine = LLMEngine.from_engine_args(wanted)
    return Backend(VllmEngine(engine), "vllm", slots, shapes_logits=False)


class VllmEngine:
    """The engine's contract over `vllm.LLMEngine`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.window: int = engine.model_config.max_model_len
        self._live: dict[int, Request] = {}
        self._next = 0

    @property
    def busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    @property
    def running(self) -> int:
        return sum(request.copies for request in self._live.values())

    @property
    def waiting(self) -> int:
        return 0  # vLLM does not say which of its requests have begun

    def submit(self, request: Request) -> int:
        """Hand a request to vLLM. Raises ModelError where it refuses."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        wanted = SamplingParams(
            n=request.copies,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature if sampling.do_sample else 0.0,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            stop_token_ids=sorted(request.stop_ids),
            ignore_eos=True,  # an answer ends where the template says, and nowhere else
            logprobs=request.top_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._next += 1
        try:
            self._engine.add_request(str(self._next), TokensPrompt(prompt_token_ids=list(request.prompt)), wanted)
        except ValueError as error:
            raise ModelError(str(error).splitlines()[0]) from error
        self._live[self._next] = request
        return self._next

    def cancel(self, number: int) -> None:
        """Forget a request."""
        self._engine.abort_request([str(number)])
        self._live.pop(number, None)

    def step(self) -> list[Event]:
        """One step of vLLM's scheduler."""
        events: list[Event] = []
        for output in self._engine.step():
            number = int(output.request_id)
            if number not in self._live:
                continue
            for one in output.outputs:
                events += _events(number, one, self._live[number].stop_ids)
            if output.finished:
                del self._live[number]
        return events


def _events(number: int, one: Any, stop_ids: frozenset[int]) -> list[Event]:
    """What came for one copy, as events."""
    ending: Ending | None = None
    if one.finish_reason is not None:
        ending = one.finish_reason if one.finish_reason in ("stop", "length") else "cancelled"
    if not one.token_ids:
        return [Event(number, one.index, None, ending=ending)] if ending else []
    events = []
    for place, token in enumerate(one.token_ids):
        table = one.logprobs[place] if one.logprobs else {}
        own = table[token].logprob if token in table else 0.0
        top = tuple((each, held.logprob) for each, held in sorted(table.items(), key=lambda item: item[1].rank or 0))
        last = place == len(one.token_ids) - 1 and (ending != "stop" or token in stop_ids)
        events.append(Event(number, one.index, token, own, ending if last else None, top))
    if ending and events[-1].ending is None:  # the stop token itself was left out
        events.append(Event(number, one.index, None, ending=ending))
    return events
