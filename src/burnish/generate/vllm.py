"""vLLM in the place of our own engine, where it is installed: whole weights, our rendering, its scheduler.

Run with vLLM 0.32 on a CPU, and tested against a stand-in with its signatures; it was never run on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from burnish.errors import MissingExtraError, ModelError
from burnish.generate.request import Completion, Ending, Event, Request
from burnish.generate.sampler import generate
from burnish.model.source import ModelSource


def load_vllm_engine(source: ModelSource, *, slots: int, **options: Any) -> VllmEngine:
    """Load a model into vLLM.

    Args:
        source: whole weights, in a folder or on the hub.
        slots: answers at a time.
        options: further ones of `vllm.EngineArgs`.
    Raises:
        MissingExtraError: vLLM is not installed.
    """
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError as error:
        raise MissingExtraError("the engine vllm", "vllm") from error
    arguments = EngineArgs(model=source.location, max_num_seqs=slots, enable_prefix_caching=True, **options)
    return VllmEngine(LLMEngine.from_engine_args(arguments))


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
            ignore_eos=True,  # a token that ends an answer is among the stop tokens
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

    def close(self) -> None:
        """End what vLLM runs, and give its memory back."""
        self._engine.engine_core.shutdown()

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

    def load_weights(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights, by the names that they have on disk. Needs an engine that runs in this process.

        vLLM's kernels keep weights in an order of their own, so the model cannot take them by itself once it has run;
        the worker unpacks and packs again, layer by layer. Keys and values of prompts belong to the weights before.
        """
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(named)})
        self._engine.reset_prefix_cache()


class VllmSampler:
    """vLLM beside the model that is trained, on the same device: it gets the weights before each rollout.

    Args:
        source: what training starts from; tells vLLM the shape of the model.
        slots: answers at a time.
        share: of the device's memory that vLLM may take.
        dtype: what vLLM computes in, by torch's name: as training does, so that its probabilities are the same.
        trust_remote_code: let vLLM run code that comes with the model.
    Raises:
        MissingExtraError: vLLM is not installed.
    """

    def __init__(
        self, source: ModelSource, *, slots: int, share: float, dtype: str = "auto", trust_remote_code: bool = False
    ) -> None:
        # In a process of its own it could not be given weights as they are in memory here.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self.engine = load_vllm_engine(
            source,
            slots=slots,
            dtype=dtype,
            gpu_memory_utilization=share,
            trust_remote_code=trust_remote_code,
            logprobs_mode="processed_logprobs",  # after the temperature, as ours
        )

    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take new weights, as they come, so that no second copy of all of them is made."""
        self.engine.load_weights(weights)

    def close(self) -> None:
        """Give vLLM's memory back, while the process group that it uses is still there."""
        self.engine.close()

    def generate(self, prompts: Sequence[Sequence[int]], **asked: Any) -> list[Completion]:
        """As `burnish.generate.generate`, but for the model."""
        return generate(None, prompts, engine=self.engine, **asked)


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
