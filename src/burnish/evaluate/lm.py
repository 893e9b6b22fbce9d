"""Our models as lm-eval asks them: texts in, likelihoods and answers out. Needs the extra `eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from burnish import log
from burnish.errors import BurnishError, ModelError
from burnish.evaluate.answering import Asked, answer_all
from burnish.evaluate.processes import Processes
from burnish.evaluate.scoring import Continuation, likelihoods
from burnish.generate import Sampling
from burnish.generate.chat import ChatModel
from burnish.template.messages import to_conversation

_ANSWER_TOKENS = 256  # of tasks that set no limit, as in lm-eval
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Wishes:
    """How one request is to be answered, read from a task's `generation_kwargs`."""

    sampling: Sampling
    until: tuple[str, ...]


def read_wishes(wishes: Mapping[str, Any], defaults: Mapping[str, Any], seed: int) -> Wishes:
    """A task's `generation_kwargs` as our sampler takes them. What is not known there changes nothing else either.

    Args:
        defaults: of the model's own generation settings, by the names of transformers.
    """
    until = wishes.get("until") or ()
    limit = next((wishes[name] for name in _LIMITS if wishes.get(name) is not None), _ANSWER_TOKENS)
    heat = float(wishes.get("temperature") or 0.0)
    drawn = bool(wishes.get("do_sample", heat > 0)) and heat > 0
    merged = {**defaults, **wishes}
    sampling = Sampling(
        max_new_tokens=int(limit),
        do_sample=drawn,
        temperature=heat if drawn else 1.0,
        top_p=float(merged.get("top_p") or 1.0) if drawn else 1.0,
        top_k=int(merged.get("top_k") or 0) if drawn else 0,
        repetition_penalty=float(merged.get("repetition_penalty") or 1.0),
        seed=seed,
    )
    return Wishes(sampling, (until,) if isinstance(until, str) else tuple(until))


class EngineLM(Processes, TemplateLM):
    """A model that is here, read by our own scoring and our own sampler.

    Args:
        chat: the model and its template.
        templated: whether prompts are rendered by that template, with the system prompt and the thinking switch it
            was built with; the token ids are then those of training.
        rows_at_once: rows of one forward pass; None lets their lengths decide.
        seed: of tasks that draw their answers.
    """

    def __init__(self, chat: ChatModel, *, templated: bool, rows_at_once: int | None = None, seed: int = 0) -> None:
        TemplateLM.__init__(self)
        self.chat, self.templated = chat, templated
        self.tokenizer = chat.template.tokenizer
        self.rows_at_once, self.seed = rows_at_once, seed
        config = chat.model.config.get_text_config()
        self.max_length: int = getattr(config, "max_position_embeddings", None) or 2048
        self.shortened = 0
        self.join(chat.model.get_input_embeddings().weight.device)

    # -- texts and tokens -----------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.chat.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.chat.template.source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text up to where the assistant speaks, or with its first words where a task gives them.

        Names of control tokens in people's text stay marked, so that `tok_encode` reads them as text.
        """
        template = self.chat.template
        history = list(chat_history) if template.abilities.system else _without_system(chat_history)
        begun = ""
        if not add_generation_prompt and history and history[-1]["role"] == "assistant":
            begun = template.encoder.guard(history.pop()["content"])
        return template.marked_text(template.complete(to_conversation(history)), True) + begun

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if self.templated and add_special_tokens is None:
            return self.chat.template.encode(string)
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **how)

    # -- likelihoods ----------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return self._score("choices scored", [(context, answer) for _, context, answer in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tokenizer.encode(request.args[0])
            cut = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for window in cut:
                windows.append(make_disjoint_window(window))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (nats, _) in zip(owners, self._score("windows read", windows), strict=True):
            totals[number] += nats
        return totals

    def _score(self, title: str, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        asked = [Continuation(tuple(context), tuple(answer)) for context, answer in pairs]
        for number, each in enumerate(asked):
            if not 0 < len(each.ids) <= self.max_length:
                raise BurnishError(
                    f"an answer to score has {len(each.ids)} tokens, and the model reads 1 to {self.max_length}",
                    at=f"request {number}",
                    fix="leave the task out, or take a model with a longer window",
                )
            self._count_shortened(len(each.context) + len(each.ids) > self.max_length + 1)
        with log.progress(title, len(asked)) as bar:
            found = likelihoods(
                self.chat.model,
                asked,
                window=self.max_length,
                rows_at_once=self.rows_at_once,
                on_done=lambda count: bar.advance(count),
            )
        return [(each.nats, each.greedy) for each in found]

    # -- answers --------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        model, tokenizer = self.chat.model, self.tokenizer
        defaults = own_values(model)
        asked = []
        for number, request in enumerate(requests):
            text, wishes = request.args
            wished = read_wishes(wishes, defaults, self.seed * 1_000_003 + number)
            asked.append(self._asked(text, wished))
        stops = self._stop_ids()
        with log.progress("questions answered", len(asked)) as bar:
            return answer_all(
                model,
                tokenizer,
                asked,
                stop_ids=stops,
                rows_at_once=self.rows_at_once,
                on_done=lambda _: bar.advance(),
            )

    def _asked(self, text: str, wished: Wishes) -> Asked:
        room = self.max_length - wished.sampling.max_new_tokens
        if room <= 0:
            raise ModelError(
                f"the task asks for up to {wished.sampling.max_new_tokens} new tokens, and the model's window has "
                f"{self.max_length}",
                at="max_new_tokens",
                fix="set max_new_tokens lower, so that the question has room as well",
            )
        ids = self.tok_encode(text)
        self._count_shortened(len(ids) > room)
        eos = self.tokenizer.decode([self.eot_token_id]) if self.eot_token_id is not None else ""
        return Asked(tuple(ids[-room:]), wished.sampling, (*wished.until, eos))

    def _stop_ids(self) -> frozenset[int]:
        if self.templated:
            return self.chat.template.stop_ids
        own = getattr(getattr(self.chat.model, "generation_config", None), "eos_token_id", None)
        ids = own if isinstance(own, list | tuple) else [own]
        return frozenset(token for token in (*ids, self.eot_token_id) if token is not None)

    def _count_shortened(self, cut: bool) -> None:
        self.shortened += cut


def own_values(model: Any) -> dict[str, Any]:
    """A model's own generation settings that lm-eval lets hold where the task says nothing."""
    config = getattr(model, "generation_config", None)
    found = {name: getattr(config, name, None) for name in ("top_p", "top_k", "repetition_penalty")}
    return {name: value for name, value in found.items() if value is not None}


def _without_system(history: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The history with a system message put before the first question, for templates that have no place for one."""
    if not history or history[0]["role"] != "system":
        return list(history)
    system, *rest = history
    if not rest:
        return [{"role": "user", "content": system["content"]}]
    return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
