"""A model to talk to: the template it was trained with, the one sampler, and a memory of the conversation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from burnish.data.records import Conversation, Turn
from burnish.errors import ModelError
from burnish.generate.engine import Engine
from burnish.generate.loading import load_to_ask
from burnish.generate.reply import Cancelled, Put, Reply
from burnish.generate.request import Completion, Ending, Request, Sampling
from burnish.generate.sampler import generate
from burnish.generate.stream import TextStream
from burnish.generate.thought import OPEN
from burnish.model.load import load_for_use
from burnish.model.quantize import Quantization
from burnish.model.reward import head_folder
from burnish.model.source import ModelSource, find_model, trained_from, with_adapters
from burnish.template import ChatTemplate, load_template


@dataclass
class ChatModel:
    """A loaded model with its template; `chat` and `stream` keep the conversation, the others do not.

    `skip_special_tokens`: leave special tokens out of text. `source`, `quantization`: where the weights come from and
    how they are held. `last`: the newest reply, with its figures.
    """

    model: Any
    template: ChatTemplate
    name: str
    sampling: Sampling = field(default_factory=Sampling)
    turns: list[Turn] = field(default_factory=list)
    skip_special_tokens: bool = True
    source: ModelSource | None = None
    quantization: Quantization | None = None
    last: Reply | None = None
    _engine: Engine | None = field(default=None, repr=False)
    _running: Reply | None = field(default=None, repr=False)

    def chat(self, text: str, on_text: Callable[[str], None] | None = None, **sampling: Any) -> str:
        """Answer a user's message, given what was said before; `on_text` is called with text as it comes."""
        asked = [*self.turns, Turn("user", text)]
        answer = self.answer(asked, on_text, **sampling)
        assert self.last is not None
        self.turns = [*asked, self.last.turn]
        return answer

    def stream(self, said: str | Sequence[Turn], **sampling: Any) -> Iterator[str]:
        """An answer in pieces of text, as they come; leaving the loop early stops the model.

        Args:
            said: a message, answered and remembered like `chat` (an answer that was stopped too), or all turns of a
                conversation, which is not remembered.
        """
        asked = [*self.turns, Turn("user", said)] if isinstance(said, str) else said
        self.last = reply = self.begin(asked, **sampling)
        try:
            yield from reply
        finally:
            reply.close()
            if isinstance(said, str) and (reply.text or reply.ending != "cancelled"):
                self.turns = [*asked, reply.turn]

    def answer(self, turns: Sequence[Turn], on_text: Callable[[str], None] | None = None, **sampling: Any) -> str:
        """Answer a conversation that ends with a user's turn, without remembering it."""
        pieces = []
        for piece in self.stream(turns, **sampling):
            pieces.append(piece)
            if on_text:
                on_text(piece)
        return "".join(pieces)

    def begin(self, turns: Sequence[Turn], **sampling: Any) -> Reply:
        """Begin to answer a conversation that ends with a user's turn, without remembering it.

        What an earlier call has read of the same conversation is not read again.
        """
        conversation = Conversation(tuple(turns))
        thinking = self.template.text(conversation, generate=True).rstrip().endswith(OPEN)
        prompt = tuple(self.template.prompt_ids(conversation))
        asked = Request(prompt, frozenset(self.template.stop_ids), replace(self.sampling, **sampling))
        if self._running:
            self._running.close()  # a second Ctrl-C may have let it run on
        self._running = Reply(
            lambda put: self._write(asked, put),
            keeps_thoughts=thinking or self.template.abilities.reasoning,
            thinking=thinking,
        )
        return self._running

    def _write(self, asked: Request, put: Put) -> Ending:
        engine = self._engine or Engine(self.model, slots=1, pad_id=self.template.tokenizer.pad_token_id or 0)
        self._engine = None  # kept again only if all goes well: what an error leaves behind is not to be trusted
        number = engine.submit(asked)
        text = TextStream(self.template.tokenizer, self.skip_special_tokens)
        ending: Ending = "cancelled"
        try:
            while engine.busy:
                for event in engine.step():
                    stopped = event.ending == "stop" or event.token is None
                    piece = "" if stopped or event.token is None else text.push(event.token)
                    if event.ending:
                        ending, piece = event.ending, piece + text.finish()
                    put(piece, int(not stopped))
        except Cancelled:
            engine.cancel(number)
            self._engine = engine
            raise
        self._engine = engine
        return ending

    def steer(self, sampling: Sampling, given: Collection[str]) -> None:
        """Take other values of the sampler."""
        self.sampling = sampling

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
        return [self.decode(completion.ids) for completion in done]

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's ids as text."""
        return self.template.decode(ids, special=not self.skip_special_tokens)


def load_chat_model(
    name: str,
    *,
    adapters: Sequence[str] = (),
    sampling: Sampling | None = None,
    skip_special_tokens: bool = True,
    say: Callable[[str], None] = lambda _: None,
    **loading: Any,
) -> ChatModel:
    """Load a base model, a run folder or a GGUF file to talk to.

    A run folder brings the template and system prompt it was trained with; the adapter is merged in memory.

    Args:
        adapters: put on top of it besides, in this order.
        loading: as in `burnish.generate.loading.load_to_ask`: `template`, `use_cpu`, `quantization_bit` and so on.
    """
    source = with_adapters(find_model(name, say), adapters)
    if head_folder(source):
        raise ModelError(
            "this is a reward model: it scores answers and writes none",
            at=name,
            fix="score answers with burnish predict or burnish.load_reward_model, or chat with the model below it",
        )
    loaded, template, quantization = load_to_ask(source, say=say, **loading)
    return ChatModel(
        *(loaded.model, template, name, sampling or Sampling()),
        skip_special_tokens=skip_special_tokens,
        source=source,
        quantization=quantization,
    )


def load_base_of(
    tuned: ChatModel,
    *,
    use_cpu: bool = False,
    trust_remote_code: bool = False,
    infer_dtype: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> ChatModel:
    """What a tuned model was trained from, asked in just the same way: same template, same sampling.

    Raises:
        ModelError: it is not known, or not there any more.
    """
    assert tuned.source is not None
    source = trained_from(tuned.source, say)
    loaded = load_for_use(
        source, use_cpu=use_cpu, quantization=tuned.quantization, trust_remote_code=trust_remote_code, dtype=infer_dtype
    )
    template = tuned.template
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    if len(template.tokenizer) > rows:  # the run has added tokens that its base has no rows for
        say("the run has tokens that its base does not know: the base is asked with its own template")
        template = load_template(loaded.tokenizer, extra_stop_ids=loaded.stop_ids)
    return ChatModel(
        *(loaded.model, template, source.adapters[-1] if source.adapters else source.name, tuned.sampling),
        skip_special_tokens=tuned.skip_special_tokens,
        source=source,
        quantization=tuned.quantization,
    )
