"""A served model as lm-eval asks it: answers only, since servers do not tell how likely a given text is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lm_eval.api.model import LM

from burnish import log
from burnish.errors import BurnishError
from burnish.evaluate.answering import cut
from burnish.evaluate.lm import Wishes, read_wishes
from burnish.generate.remote import RemoteModel, told

_STOPS = 4  # texts that OpenAI's interface takes; the others are cut here
_RETRIES = 6  # after a refusal for too many requests, with growing pauses


class EndpointLM(LM):
    """A model behind an OpenAI-compatible URL.

    Args:
        remote: from `load_remote_model`.
        templated: whether the server renders the question with its chat template; else it continues plain text.
        at_once: requests under way at a time.
        seed: of tasks that draw their answers.
    """

    def __init__(self, remote: RemoteModel, *, templated: bool, at_once: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.remote, self.templated, self.at_once, self.seed = remote, templated, at_once, seed
        self.client = remote.client.with_options(max_retries=_RETRIES)

    @property
    def tokenizer_name(self) -> str:
        return self.remote.model.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as JSON: the server has the template."""
        return json.dumps(chat_history, ensure_ascii=False)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise self._no_likelihoods(requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        raise self._no_likelihoods(requests)

    def _no_likelihoods(self, requests: Sequence[Any]) -> BurnishError:
        return BurnishError(
            "a server does not tell how likely given texts are, and this task asks for that",
            at=f"--tasks {requests[0].task_name}",
            fix="choose tasks whose answers are generated, or evaluate the model's folder",
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        asked = []
        for number, request in enumerate(requests):
            text, wishes = request.args
            asked.append((text, read_wishes(wishes, {}, self.seed * 1_000_003 + number)))
        with log.progress("questions answered", len(asked)) as bar, ThreadPoolExecutor(self.at_once) as pool:
            answers = []
            for answer in pool.map(lambda each: self._answer(*each), asked):
                answers.append(answer)
                bar.advance()
        return answers

    def _answer(self, text: str, wished: Wishes) -> str:
        sampling = wished.sampling
        how: dict[str, Any] = {"model": self.remote.model, "max_tokens": sampling.max_new_tokens}
        how["temperature"] = sampling.temperature if sampling.do_sample else 0.0
        if sampling.do_sample:
            how |= {"top_p": sampling.top_p, "seed": sampling.seed}
        until = [word for word in wished.until if word]
        if until:
            how["stop"] = until[:_STOPS]
        with told(self.remote.name, self.remote.model):
            if self.templated:
                reply = self.client.chat.completions.create(messages=json.loads(text), **how)
                said = reply.choices[0].message.content
            else:
                said = self.client.completions.create(prompt=text, **how).choices[0].text
        return cut(said or "", until)
