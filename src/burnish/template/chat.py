"""The one renderer: training examples, generation prompts, chat and evaluation all go through `ChatTemplate`.

A conversation is rendered as text by a Jinja chat template and cut where an answer begins and ends. An answer is
tokenized after exactly the ids that inference will have before it, and its span is known by construction: nothing
is searched for in the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from burnish.data.records import Conversation, Turn
from burnish.errors import TemplateError
from burnish.template.messages import to_messages, with_system

_PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of tokens with one meaning.

    `answer` pieces are what the model is to say: the assistant's text and the stop token. `tail` pieces follow an
    answer but come after the stop token, where inference has already ended. The rest are `prompt`.
    """

    ids: list[int]
    kind: str  # "prompt" | "answer" | "tail"
    weight: float = 1.0


class ChatTemplate:
    """Renders conversations with one Jinja template and one tokenizer.

    Args:
        tokenizer: a transformers fast tokenizer.
        source: the Jinja text; None takes the tokenizer's own chat template.
        name: shown to people and kept in the run folder.
        default_system: a system turn for conversations that have none.
        extra_stop_ids: ids at which inference stops besides the template's own (a model's generation settings).
    Raises:
        TemplateError: there is no template, or it cannot render a plain question and answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str | None = None,
        *,
        name: str = "tokenizer",
        default_system: str | None = None,
        extra_stop_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.source = source or tokenizer.chat_template
        self.default_system = default_system
        if not self.source:
            raise TemplateError(
                "this tokenizer has no chat template",
                at="template",
                fix="set template: default, or a .jinja file",
            )
        terminator = self._probe_terminator()
        self.terminator_id: int = tokenizer.eos_token_id if terminator is None else terminator
        self.ends_by_itself = terminator is not None
        if self.terminator_id is None:
            raise TemplateError(
                "neither the template nor the tokenizer has an end-of-answer token",
                at=f"template {name}",
                fix="use a template that ends answers with a special token, or a tokenizer with an eos_token",
            )
        extra = {i for i in extra_stop_ids if i is not None}
        self.stop_ids: frozenset[int] = frozenset({self.terminator_id, *extra} - {None})

    # -- text ---------------------------------------------------------------------------------------------

    def text(self, conversation: Conversation, *, generate: bool) -> str:
        """The rendered text; with `generate`, up to where the assistant begins to speak."""
        conversation = with_system(conversation, self.default_system)
        try:
            return self.tokenizer.apply_chat_template(
                to_messages(conversation.turns),
                tools=list(conversation.tools) or None,
                chat_template=self.source,
                add_generation_prompt=generate,
                tokenize=False,
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._cannot_render(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "jinja2":
                raise
            raise self._cannot_render(error) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: special tokens written in it count, none is added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def decode(self, ids: list[int], *, special: bool = False) -> str:
        """Text of ids; with `special`, special tokens are kept visible."""
        return self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    # -- ids ----------------------------------------------------------------------------------------------

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids that inference starts from: everything up to where the assistant begins to speak."""
        return self.encode(self.text(conversation, generate=True))

    def pieces(self, conversation: Conversation, *, last_only: bool = False) -> list[Piece]:
        """The conversation as prompt, answer and tail pieces, in order; for training.

        Args:
            last_only: show the last answer only as an answer; earlier ones are part of its prompt, as the template
                renders them there.
        Raises:
            TemplateError: the template rewrites earlier turns once later ones follow, so that no single row
                shows every answer in the context inference would give it.
        """
        conversation = with_system(conversation, self.default_system)
        turns, tools = conversation.turns, conversation.tools
        full = self.text(conversation, generate=False)
        answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
        found: list[Piece] = []
        ids: list[int] = []  # of everything found so far
        done = 0  # characters of `full` that they cover
        for index in answers[-1:] if last_only else answers:
            last = index == len(turns) - 1
            before = self.text(Conversation(turns[:index], tools), generate=True)
            after = full if last else self.text(Conversation(turns[: index + 1], tools), generate=False)
            if not (after.startswith(before) and full.startswith(after) and len(before) >= done):
                raise self._rewrites(index, before, after)
            found.append(Piece(self._continue(ids, full, done, len(before)), "prompt"))
            ids = [*ids, *found[-1].ids]
            answer = self._continue(ids, full, len(before), len(after))
            found += self._answer(answer, turns[index], is_last=last)
            ids = [*ids, *answer]
            done = len(after)
        if done < len(full):
            found.append(Piece(self._continue(ids, full, done, len(full)), "prompt"))
        return found

    def _continue(self, ids: list[int], text: str, start: int, end: int) -> list[int]:
        """The ids of text[start:end] after the ids of text[:start].

        Where the whole text begins with the same ids, the rest of its ids is the answer: tokenizers that mark the
        beginning of a text must not mark every piece. Where a token would reach over the cut, the piece stands alone.
        """
        whole = self.encode(text[:end])
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
        return self.encode(text[start:end])

    def _answer(self, ids: list[int], turn: Turn, *, is_last: bool) -> Iterable[Piece]:
        ends = [place for place, token in enumerate(ids) if token in self.stop_ids]
        if ends:
            cut = ends[-1] + 1
            yield Piece(ids[:cut], "answer", turn.weight)
            if cut < len(ids):
                yield Piece(ids[cut:], "tail")
        elif is_last:  # the template leaves the end open; the tokenizer's own end token closes the last answer
            yield Piece([*ids, self.terminator_id], "answer", turn.weight)
        else:
            yield Piece(ids, "answer", turn.weight)

    # -- probing ------------------------------------------------------------------------------------------

    def _probe_terminator(self) -> int | None:
        """The special token that the template writes after an answer; None where it writes none."""
        turns = (Turn("user", _PROBE), Turn("assistant", _PROBE))
        text = self.text(Conversation(turns), generate=False)
        tail = text[text.rindex(_PROBE) + len(_PROBE) :] if _PROBE in text else ""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return next((token for token in self.encode(tail) if token in special), None)

    def _cannot_render(self, error: Exception) -> TemplateError:
        return TemplateError(
            f"the chat template cannot render this conversation: {error}",
            at=f"template {self.name}",
            fix="check the order of roles and whether the template knows system turns and tools",
        )

    def _rewrites(self, index: int, before: str, after: str) -> TemplateError:
        if not after.startswith(before):
            why = "what it writes for an answer does not begin with its own generation prompt"
        else:
            why = "it changes earlier answers once later turns follow (it may drop their reasoning)"
        return TemplateError(
            f"template '{self.name}' cannot show every answer of a conversation in one row: {why}",
            at=f"turn {index}",
            fix="set mask_history: true to train on the last answer only, or choose another template",
        )
