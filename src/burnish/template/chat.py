"""The one renderer: training examples, generation prompts, chat and evaluation all go through `ChatTemplate`.

A conversation is rendered as text by a Jinja chat template and cut where an answer begins and ends. An answer is
tokenized after exactly the ids that inference will have before it, and its span is known by construction: the prompt
of an answer is what the template writes before the model speaks, and its end is the stop token that follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any

from burnish.data.records import Conversation
from burnish.errors import TemplateError
from burnish.template.encode import Encoder
from burnish.template.example import Piece
from burnish.template.messages import to_messages, with_system, with_written_thought, without_thoughts
from burnish.template.plan import Plan, encode_plans, make_plans
from burnish.template.probe import Abilities, after_a_call, after_a_plain_answer, of_a_question, probe
from burnish.template.render import Renderer
from burnish.template.shapes import Shapes

_OTHER_WORDS = "\ufdd2"


class ChatTemplate:
    """Renders conversations with one Jinja template and one tokenizer.

    Args:
        tokenizer: a transformers fast tokenizer.
        source: the Jinja text; None takes the tokenizer's own chat template.
        name: shown to people and kept in the run folder.
        default_system: a system turn for conversations that have none.
        extra_stop_ids: ids at which inference stops besides the template's own (a model's generation settings).
        enable_thinking: False leaves reasoning out and begins answers after an empty thought, where the template
            has a place for it; None leaves it to the template.
        preserve_thinking: keep the reasoning of earlier answers, where the template would drop it.
        split_special_tokens: False lets text spell control tokens; otherwise it is read as ordinary characters.
        today: the day for templates that print it; None asks the clock.
    Raises:
        TemplateError: there is no template, it is not valid Jinja, it cannot render a plain question and answer, or
            it has no place for what is asked of it.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str | None = None,
        *,
        name: str = "tokenizer",
        default_system: str | None = None,
        extra_stop_ids: Iterable[int] = (),
        enable_thinking: bool | None = None,
        preserve_thinking: bool = False,
        split_special_tokens: bool = True,
        today: datetime | None = None,
    ) -> None:
        self._made_from: dict[str, Any] = {
            "tokenizer": tokenizer,
            "source": source,
            "name": name,
            "default_system": default_system,
            "extra_stop_ids": tuple(extra_stop_ids),
            "enable_thinking": enable_thinking,
            "preserve_thinking": preserve_thinking,
            "split_special_tokens": split_special_tokens,
            "today": today,
        }
        self.tokenizer = tokenizer
        self.name = name
        self.today = today
        self.notes: list[str] = []
        self.default_system = default_system
        self.enable_thinking, self.preserve_thinking = enable_thinking, preserve_thinking
        self.source = tokenizer.chat_template if source is None else source
        if not self.source:
            raise TemplateError(
                "this tokenizer has no chat template",
                at="template",
                fix="set template: default, or a .jinja file",
            )
        wishes = {"enable_thinking": enable_thinking, "preserve_thinking": preserve_thinking or None}
        wishes = {key: value for key, value in wishes.items() if value is not None}
        self.renderer = Renderer(self.source, name, {**tokenizer.special_tokens_map, **wishes}, today)
        self.encoder = Encoder(tokenizer, guards=split_special_tokens)
        self._find_stops(self._made_from["extra_stop_ids"])
        if preserve_thinking and not self._keeps_history_thoughts():
            raise TemplateError(
                f"template '{name}' drops the reasoning of earlier answers and knows no preserve_thinking",
                at="preserve_thinking",
                fix="leave preserve_thinking out, or choose a template that knows it, such as template: qwen3",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._made_from,)  # compiled templates cannot be sent to another process

    def changed(self, **wishes: Any) -> ChatTemplate:
        """The same template with other arguments of the constructor, such as enable_thinking=False."""
        return ChatTemplate(**{**self._made_from, **wishes})

    # -- text ---------------------------------------------------------------------------------------------

    def text(self, conversation: Conversation, *, generate: bool) -> str:
        """The rendered text; with `generate`, up to where the assistant begins to speak."""
        return self.encoder.plain(self.marked_text(self.complete(conversation), generate))

    def complete(self, conversation: Conversation) -> Conversation:
        """The conversation as this template is to see it: with the default system turn, thoughts where they belong.

        Raises:
            TemplateError: the template has no place for something the conversation holds.
        """
        conversation = with_system(conversation, self.default_system)
        turns = conversation.turns
        if self.enable_thinking is False:
            turns = tuple(without_thoughts(turn) for turn in turns)
        elif any(turn.reasoning is not None for turn in turns) and not self.abilities.reasoning:
            turns = tuple(with_written_thought(turn) for turn in turns)
        self._check_place(conversation)
        return conversation if turns is conversation.turns else replace(conversation, turns=turns)

    def marked_text(self, conversation: Conversation, generate: bool) -> str:
        """The text of a completed conversation, with the names of control tokens in people's text marked."""
        messages, tools = self.marked_messages(conversation)
        return self.render(messages, tools, generate)

    def marked_messages(self, conversation: Conversation) -> tuple[list[dict[str, Any]], list[Any]]:
        """A completed conversation as messages and tools for `render`, names of control tokens marked."""
        guard = self.encoder.guard
        return guard(to_messages(conversation.turns)), guard(list(conversation.tools))

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any], generate: bool) -> str:
        """The text of marked messages. Raises CannotRender."""
        return self.renderer.text(messages, tools, generate=generate)

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: control tokens written in it count, none is added."""
        return self.encoder.encode(text)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids; with `special`, special tokens are kept visible."""
        return self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)

    # -- ids ----------------------------------------------------------------------------------------------

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids that inference starts from: everything up to where the assistant begins to speak."""
        return self.encode(self.marked_text(self.complete(conversation), True))

    def plans(self, conversation: Conversation, *, last_only: bool = False, split: bool | None = None) -> list[Plan]:
        """The rows that a conversation needs so that each answer stands in the context inference would give it.

        Args:
            last_only: train the last answer only.
            split: True makes a row for each answer; None only where the template rewrites earlier turns once later
                ones follow; False refuses then.
        Raises:
            TemplateError: the template cannot show an answer as inference would see it, or `split` forbids it.
        """
        return make_plans(self, self.complete(conversation), last_only=last_only, split=split)

    def rows(
        self, conversation: Conversation, *, last_only: bool = False, split: bool | None = None
    ) -> list[list[Piece]]:
        """`plans` as pieces of token ids: prompts, answers with their stop token, and what follows it."""
        return encode_plans(self.encoder, self.plans(conversation, last_only=last_only, split=split))

    def pieces(self, conversation: Conversation, *, last_only: bool = False) -> list[Piece]:
        """The conversation as one row. Raises TemplateError where one row cannot show every answer rightly."""
        return self.rows(conversation, last_only=last_only, split=False)[0]

    def around_words(self, conversation: Conversation, index: int) -> tuple[str, str] | None:
        """What the template writes before and after the words of the turn that answer `index` replies to.

        Found by rendering other words in their place. None where the template writes them not just once.

        Args:
            conversation: completed.
        """
        messages, tools = self.marked_messages(replace(conversation, turns=conversation.turns[:index]))
        if not messages:
            return None
        found = self.render([*messages[:-1], {**messages[-1], "content": _OTHER_WORDS}], tools, True)
        before, _, after = found.partition(_OTHER_WORDS)
        return (before, after) if found.count(_OTHER_WORDS) == 1 else None

    def encode_plans(self, plans: Sequence[Plan]) -> list[list[Piece]]:
        """The rows of many plans at once; much faster than one by one."""
        return encode_plans(self.encoder, plans)

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Plain texts as ids for pretraining: the beginning token, where the tokenizer writes one, text, end token."""
        begin = [self.tokenizer.bos_token_id] if self._begins_texts else []
        end = self.tokenizer.eos_token_id
        end = [self.terminator_id if end is None else end]
        return [[*begin, *ids, *end] for ids in self.encoder.encode_all([self.encoder.guard(text) for text in texts])]

    @cached_property
    def _begins_texts(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    # -- what the template is -------------------------------------------------------------------------------

    @cached_property
    def abilities(self) -> Abilities:
        """What the template has a place for: system turns, tools, tool calls, reasoning."""
        return probe(self.marked_text)

    @cached_property
    def shapes(self) -> Shapes:
        """How conversations of plain words become rows, worked out once for each order of roles."""
        return Shapes(self)

    @cached_property
    def saved_source(self) -> str:
        """The Jinja text for the tuned model: it renders as in training without being told how.

        What was asked of the template stands in front of it, so that any program that loads the model chats with it
        in the way it was trained.
        """
        lines = []
        if self.enable_thinking is not None:
            value = "true" if self.enable_thinking else "false"
            lines.append(
                "{%- if enable_thinking is not defined %}{%- set enable_thinking = " + value + " %}{%- endif %}"
            )
        if self.preserve_thinking:
            lines.append("{%- set preserve_thinking = true %}")
        if self.default_system:
            system = json.dumps(self.default_system, ensure_ascii=False)
            lines.append(
                "{%- if not messages or messages[0]['role'] != 'system' %}"
                "{%- set messages = [{'role': 'system', 'content': " + system + "}] + messages %}{%- endif %}"
            )
        return "".join(line for line in lines if line not in self.source) + self.source

    def _find_stops(self, extra_stop_ids: Iterable[int]) -> None:
        """Which tokens end an answer. Found by rendering, since templates do not say."""
        encoder = self.encoder
        asked = of_a_question(self.marked_text)
        encoder.control(name for name in encoder.names if name in asked and _is_markup(name))
        tail = after_a_plain_answer(self.marked_text)
        encoder.control(name for name in encoder.names if name in tail and _is_markup(name))
        ends = encoder.controls_in(tail)
        self.ends_by_itself = bool(ends)
        terminator = encoder.token_id(ends[0][0]) if ends else self.tokenizer.eos_token_id
        if terminator is None:
            raise TemplateError(
                "neither the template nor the tokenizer has an end-of-answer token",
                at=f"template {self.name}",
                fix="use a template that ends answers with a special token, or a tokenizer with an eos_token",
            )
        if ends and terminator not in self.encode(tail):
            raise TemplateError(
                f"template '{self.name}' ends answers with {ends[0][0]}, no token of this tokenizer",
                at=f"template {self.name}",
                fix="leave template out to use the tokenizer's own, or choose template: default",
            )
        self.terminator_id: int = terminator
        stops = {terminator, *(number for number in extra_stop_ids if number is not None)}
        calls = [encoder.token_id(match[0]) for match in encoder.controls_in(after_a_call(self.marked_text))]
        if calls and terminator not in calls:
            stops.add(calls[-1])
        self.stop_ids: frozenset[int] = frozenset(stops - {None})
        self.stop_names = {name for name in encoder.names if encoder.token_id(name) in self.stop_ids}
        encoder.control(self.stop_names)

    def _keeps_history_thoughts(self) -> bool:
        from burnish.data.records import Turn

        turns = (
            Turn("user", "a"),
            Turn("assistant", "b", reasoning="probe thought"),
            Turn("user", "c"),
            Turn("assistant", "d", reasoning="e"),
        )
        return "probe thought" in self.text(Conversation(turns), generate=False)

    def _check_place(self, conversation: Conversation) -> None:
        """Raise TemplateError where the template would leave something out without a word."""
        turns = conversation.turns
        lost = None
        if turns and turns[0].role == "system" and not self.abilities.system:
            lost = "a system turn"
        elif conversation.tools and not self.abilities.tools:
            lost = "descriptions of tools"
        elif any(turn.tool_calls or turn.role == "tool" for turn in turns) and not self.abilities.calls:
            lost = "tool calls"
        if lost:
            raise TemplateError(
                f"template '{self.name}' has no place for {lost}",
                at=f"template {self.name}",
                fix="choose a template that has: `burnish templates` lists what each can do",
            )


def _is_markup(name: str) -> bool:
    """Whether an added token is a mark such as <|user|> or [INST], and not just frequent text such as a blank line."""
    return name[0] in "<[|｜" and name == name.strip()


def _again(made_from: dict[str, Any]) -> ChatTemplate:
    return ChatTemplate(**made_from)
