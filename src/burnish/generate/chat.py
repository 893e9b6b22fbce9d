"""A model to talk to: the template it was trained with, the one sampler, and a memory of the conversation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError
from burnish.generate.engine import Engine
from burnish.generate.request import Completion, Request, Sampling
from burnish.generate.sampler import generate
from burnish.generate.stream import TextStream
from burnish.model.load import load_for_use
from burnish.model.quantize import quantization_of
from burnish.model.reward import head_folder
from burnish.model.source import find_model, trained_over
from burnish.template import ChatTemplate, load_template


@dataclass
class ChatModel:
    """A loaded model with its template; `chat` keeps the conversation, `answer_all` does not."""

    model: Any
    template: ChatTemplate
    name: str
    sampling: Sampling = field(default_factory=Sampling)
    turns: list[Turn] = field(default_factory=list)
    tokens_per_second: float = 0.0
    _engine: Engine | None = field(default=None, repr=False)

    def chat(self, text: str, on_text: Callable[[str], None] | None = None, **sampling: Any) -> str:
        """Answer a user's message, given what was said before; `on_text` is called with text as it comes."""
        asked = [*self.turns, Turn("user", text)]
        answer = self.answer(asked, on_text, **sampling)
        self.turns = [*asked, Turn("assistant", answer)]
        return answer

    def answer(self, turns: Sequence[Turn], on_text: Callable[[str], None] | None = None, **sampling: Any) -> str:
        """Answer a conversation that ends with a user's turn, without remembering it."""
        pieces = []
        for piece in self.stream(turns, **sampling):
            pieces.append(piece)
            if on_text:
                on_text(piece)
        return "".join(pieces)

    def stream(self, turns: Sequence[Turn], **sampling: Any) -> Iterator[str]:
        """The answer to a conversation in pieces of text, as they come; leaving the loop early stops the model.

        What an earlier call has read of the same conversation is not read again.
        """
        if self._engine is None:
            self._engine = Engine(self.model, slots=1, pad_id=self.template.tokenizer.pad_token_id or 0)
        engine, text = self._engine, TextStream(self.template.tokenizer)
        prompt = self.template.prompt_ids(Conversation(tuple(turns)))
        number = engine.submit(
            Request(tuple(prompt), frozenset(self.template.stop_ids), replace(self.sampling, **sampling))
        )
        started = time.perf_counter()
        try:
            while engine.busy:
                for event in engine.step():
                    piece = text.push(event.token) if event.token is not None and event.ending != "stop" else ""
                    if event.ending:
                        piece += text.finish()
                    self.tokens_per_second = len(text.ids) / max(time.perf_counter() - started, 1e-9)
                    if piece:
                        yield piece
        finally:
            engine.cancel(number)

    def answer_all(
        self,
        conversations: Sequence[Conversation],
        *,
        batch_size: int = 8,
        on_token: Callable[[int, int], None] | None = None,
        on_done: Callable[[int, Completion], None] | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Answer many conversations in batches; each ends with a user's turn."""
        prompts = [self.template.prompt_ids(conversation) for conversation in conversations]
        done = generate(
            self.model,
            prompts,
            stop_ids=self.template.stop_ids,
            sampling=replace(self.sampling, **sampling),
            batch_size=batch_size,
            pad_id=self.template.tokenizer.pad_token_id or 0,
            on_token=on_token,
            on_done=on_done,
        )
        return [self.template.decode(completion.ids) for completion in done]


def load_chat_model(
    name: str,
    *,
    template: str | None = None,
    default_system: str | None = None,
    use_cpu: bool = False,
    adapters: Sequence[str] = (),
    sampling: Sampling | None = None,
    trust_remote_code: bool = False,
    enable_thinking: bool | None = None,
    preserve_thinking: bool = False,
    split_special_tokens: bool = True,
    quantization_bit: int | None = None,
    quantization_type: str = "nf4",
    double_quantization: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> ChatModel:
    """Load a base model, a run folder or a GGUF file to talk to.

    A run folder brings the template and system prompt it was trained with; the adapter is merged in memory. What is
    asked for besides (`enable_thinking` and so on) is as in `ChatTemplate`.

    Args:
        quantization_bit: 8 or 4 bits for the base weights, 16 for whole ones; None holds them as the run was trained.
            An adapter is merged into whole weights, and stays beside quantized ones.
    """
    source = find_model(name, say)
    if adapters:
        source = replace(source, adapters=(*source.adapters, *adapters))
    if head_folder(source):
        raise ModelError(
            "this is a reward model: it scores answers and writes none",
            at=name,
            fix="score answers with burnish.load_reward_model, or chat with the model it was trained from",
        )
    quantization = quantization_of(quantization_bit, quantization_type, double_quantization)
    if quantization_bit is None and trained_over(source):
        quantization = trained_over(source)
        say(f"the base is held in {quantization}, as it was trained; quantization_bit=16 takes the whole one")
    loaded = load_for_use(source, use_cpu=use_cpu, quantization=quantization, trust_remote_code=trust_remote_code)
    # The tokenizer in a run folder already carries the training template; naming it again gives the same text.
    chosen = template or source.template
    built = load_template(
        loaded.tokenizer,
        chosen,
        default_system=default_system or source.default_system,
        extra_stop_ids=loaded.stop_ids,
        enable_thinking=enable_thinking,
        preserve_thinking=preserve_thinking,
        split_special_tokens=split_special_tokens,
    )
    return ChatModel(loaded.model, built, name, sampling or Sampling())
