"""The models that a server offers by name: the base and each adapter, with the template each was trained with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from openai.types import Model

from burnish.serve.bodies import TemplateArguments
from burnish.serve.errors import ApiError, bad_request
from burnish.serve.grammar import Guide, Node, Vocabulary
from burnish.serve.spelling import Spelling
from burnish.template import ChatTemplate
from burnish.template.call_form import CallForm, call_form_of
from burnish.template.calls import CallFormat, format_of

_MOST_GUIDES = 16  # schemas that are kept ready


@dataclass
class Served:
    """One model by name.

    `adapter` is what the engine calls it. `rows`: how many tokens the embeddings have. `parent`: what an adapter
    stands on.
    """

    name: str
    template: ChatTemplate
    rows: int
    adapter: str = ""
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    _variants: dict[bool, ChatTemplate] = field(default_factory=dict)
    _guides: dict[str, Guide] = field(default_factory=dict)
    _forms: dict[bool | None, CallForm | None] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return self.template.tokenizer

    @cached_property
    def spelling(self) -> Spelling:
        return Spelling(self.tokenizer)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        added = self.tokenizer.added_tokens_decoder
        plain = (token for token in range(self.rows) if token not in added)
        return Vocabulary(self.spelling.of_all(plain), (token for token in added if token < self.rows))

    def guide_for(self, key: str, make: Callable[[], Node], param: str) -> Guide:
        """What keeps an answer to a grammar; kept for the next request that asks for the same.

        Args:
            key: tells grammars apart.
            param: what a request asks for it with.
        Raises:
            ApiError: nothing fits the grammar, or the tokenizer does not tell the bytes of its tokens.
        """
        if not self.spelling.exact:
            raise bad_request("This model's tokenizer does not tell how its tokens are spelled.", param)
        if key not in self._guides:
            guide = Guide(make(), self._vocabulary, sorted(self.template.stop_ids), self.rows)
            if guide.machine.empty:
                raise bad_request("Nothing fits this schema.", param)
            while len(self._guides) >= _MOST_GUIDES:
                self._guides.pop(next(iter(self._guides)))
            self._guides[key] = guide
        return self._guides[key]

    def call_form(self, template: ChatTemplate) -> CallForm | None:
        """How one of this model's templates writes calls; None where it has no form that a model could be held to."""
        if template.enable_thinking not in self._forms:
            self._forms[template.enable_thinking] = call_form_of(template)
        return self._forms[template.enable_thinking]

    @cached_property
    def call_format(self) -> CallFormat | None:
        return format_of(self.template)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Where a plain completion ends: where an answer does, and at the tokenizer's own end of text."""
        end = self.tokenizer.eos_token_id
        return self.template.stop_ids | ({end} if end is not None else set())

    def template_for(self, wishes: TemplateArguments | None) -> ChatTemplate:
        """The template as a request wants it.

        Raises:
            ApiError: the template has no place for the wish.
        """
        if wishes is None or wishes.enable_thinking is None:
            return self.template
        if "enable_thinking" not in self.template.source:
            raise bad_request(
                "The chat template of this model knows no enable_thinking.", "chat_template_kwargs.enable_thinking"
            )
        thinking = wishes.enable_thinking
        if thinking not in self._variants:
            self._variants[thinking] = self.template.changed(enable_thinking=thinking)
        return self._variants[thinking]

    def card(self) -> Model:
        """The model as /v1/models shows it."""
        more = {"parent": self.parent} if self.parent else {}
        return Model(id=self.name, created=self.created, object="model", owned_by="burnish", **more)


class Models:
    """A table of names; the first is what a request without a name gets."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.all = list(served)
        self._by_name = {one.name: one for one in served}

    def get(self, name: str | None) -> Served:
        """Raises ApiError 404: names are looked up in the table and nowhere else."""
        if name is None:
            return self.all[0]
        if name not in self._by_name:
            raise ApiError(404, "The model does not exist; /v1/models lists those that do.", param="model",
                           code="model_not_found")  # fmt: skip
        return self._by_name[name]
