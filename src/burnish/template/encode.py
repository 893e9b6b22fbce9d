"""Rendered text to token ids, where control tokens count only if the template wrote them.

Text that people wrote may hold the name of a control token: `<|im_end|>` in a question about chat formats. Read as
the token, it would end a turn in the middle. So before rendering, such text is marked with a character that no text
has (a Unicode noncharacter); after it, what is marked is tokenized as ordinary characters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

MARK = "\ufdd0"
_ALIAS = "\ufdd1"
TEXT_TOKENS = "text_tokens"
"""In tokenizer_config.json: special tokens that text may spell, because they were added for that."""
_THOUGHTS = ("<think>", "</think>")
_PLAIN = (int, float, bool, type(None))


class Encoder:
    """A tokenizer, and the control tokens that text may not spell.

    Args:
        tokenizer: a transformers tokenizer; one without a `backend_tokenizer` cannot keep control tokens apart.
        guards: False reads the names of control tokens in text as those tokens, as most tools do.
    """

    def __init__(self, tokenizer: Any, *, guards: bool = True) -> None:
        self.tokenizer = tokenizer
        self._core = getattr(tokenizer, "backend_tokenizer", None)
        self.guards = guards and self._core is not None
        self._added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        self._wide = {token.content for token in tokenizer.added_tokens_decoder.values() if _is_wide(token)}
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._controls: tuple[str, ...] = ()
        # Answers write thoughts themselves, whatever a tokenizer calls these tokens; what was added for text is text.
        spelt = {*_THOUGHTS, *getattr(tokenizer, "init_kwargs", {}).get(TEXT_TOKENS, ())}
        self.control((special | set(tokenizer.all_special_tokens)) - spelt)
        self._short = lru_cache(maxsize=512)(lambda text: tuple(self.encode(text)))

    def control(self, names: Iterable[str]) -> None:
        """Make added tokens control tokens, besides those that the tokenizer itself calls special."""
        known = {name for name in names if name in self._added and len(name) > 1}
        self._controls = tuple(sorted(known | set(self._controls), key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self._controls)) or r"(?!)")
        self.control_ids = frozenset(self._added[name] for name in self._controls)
        self.__dict__.pop("_plain_core", None)

    # -- before rendering -----------------------------------------------------------------------------------

    def spells(self, text: str) -> bool:
        """Whether a text holds the name of a control token."""
        return self._pattern.search(text) is not None

    def is_plain(self, text: str) -> bool:
        """Whether a text may be rendered as it is: no control token's name stands in it, and no mark."""
        return self._pattern.search(text) is None and MARK not in text

    def guard(self, value: Any) -> Any:
        """The value with every control token's name in it marked, at any depth; the same object if there is none."""
        if not self.guards or not self._spelt(value):
            return value
        if isinstance(value, str):
            found = self._pattern.sub(lambda match: match[0][0] + MARK + match[0][1:], value.replace(MARK, MARK * 2))
            return value if found == value else found
        if isinstance(value, Mapping):
            return {self.guard(key): self.guard(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.guard(item) for item in value]
        return value

    def _spelt(self, value: Any) -> bool:
        """Whether the name of a control token, or a mark, stands anywhere in a value."""
        kind = type(value)
        if kind is str:
            return self._pattern.search(value) is not None or MARK in value
        if kind is dict:
            return any(self._spelt(item) for item in value.values()) or any(self._spelt(key) for key in value)
        if kind is list or kind is tuple:
            return any(self._spelt(item) for item in value)
        return kind not in _PLAIN  # what is neither is looked at closely

    @staticmethod
    def plain(text: str) -> str:
        """Rendered text as people shall see it, without the marks."""
        return text if MARK not in text else _unmark(text)

    # -- after rendering ------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: control tokens that the template wrote count, none is added."""
        if not text:
            return []
        if self._core is None:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if MARK in text:
            return self._encode_marked(text)
        return self._ready().encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on as many threads as the tokenizer's library uses."""
        if self._core is None:
            return [self.encode(text) for text in texts]
        done = [one.ids for one in self._ready().encode_batch_fast(list(texts), add_special_tokens=False)]
        return [self._encode_marked(text) if MARK in text else ids for text, ids in zip(texts, done, strict=True)]

    def _ready(self) -> Any:
        """The tokenizer's core, without the traces that other calls of the tokenizer leave in it."""
        core = self._core
        assert core is not None
        core.encode_special_tokens = False
        if core.truncation is not None:
            core.no_truncation()
        if core.padding is not None:
            core.no_padding()
        return core

    def encode_short(self, text: str) -> tuple[int, ...]:
        """`encode`, remembered: for the few words that a template writes again and again."""
        return self._short(text)

    def controls_in(self, text: str) -> list[re.Match[str]]:
        """The control tokens in rendered text, in order; marked ones are none."""
        return list(self._pattern.finditer(text))

    def edges(self, text: str) -> list[int]:
        """Where control tokens begin in rendered text: what follows such a place is tokenized on its own."""
        return [match.start() for match in self._pattern.finditer(text) if match[0] not in self._wide]

    def fingerprint(self) -> str:
        """SHA-256 of all that decides ids: vocabulary, merges, added tokens and the way text is taken apart."""
        core = self.tokenizer.get_vocab() if self._core is None else self._core.to_str()
        written = core if isinstance(core, str) else json.dumps(core, sort_keys=True)
        named = {key: str(value) for key, value in self.tokenizer.special_tokens_map.items()}
        special = json.dumps([named, sorted(getattr(self.tokenizer, "init_kwargs", {}).get(TEXT_TOKENS, ()))])
        return hashlib.sha256((written + special).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of the control tokens, long ones first."""
        return self._controls

    @property
    def names(self) -> Iterable[str]:
        """The names of all added tokens."""
        return self._added.keys()

    def is_wide(self, name: str) -> bool:
        """Whether a control token takes text beside it along, so that it does not cut cleanly."""
        return name in self._wide

    def token_id(self, name: str) -> int | None:
        """The id of an added token, None where there is none of that name."""
        return self._added.get(name)

    def _encode_marked(self, text: str) -> list[int]:
        core, real = self._plain_core
        aliased = self._pattern.sub(lambda match: f"{_ALIAS}{self._controls.index(match[0])}{_ALIAS}", text)
        return [real.get(i, i) for i in core.encode(_unmark(aliased), add_special_tokens=False).ids]

    @cached_property
    def _plain_core(self) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer that knows control tokens by other names only, and the real id of each such name."""
        from tokenizers import AddedToken, Tokenizer

        assert self._core is not None
        written = json.loads(self._core.to_str())
        flags: dict[str, dict[str, Any]] = {}
        for token in written["added_tokens"]:
            if token["content"] in self._controls:
                token["special"] = True
                flags[token["content"]] = token
        core = Tokenizer.from_str(json.dumps(written))
        aliases = {f"{_ALIAS}{number}{_ALIAS}": content for number, content in enumerate(self._controls)}
        for alias, content in aliases.items():
            wide = {name: bool(flags.get(content, {}).get(name)) for name in ("lstrip", "rstrip")}
            core.add_tokens([AddedToken(alias, normalized=False, special=False, **wide)])
        core.encode_special_tokens = True
        vocabulary = core.get_vocab(with_added_tokens=True)
        return core, {vocabulary[alias]: self._added[content] for alias, content in aliases.items()}


def _unmark(text: str) -> str:
    return re.sub(f"{MARK}({MARK}?)", r"\1", text)


def _is_wide(token: Any) -> bool:
    """Whether an added token takes text beside it along, so that it does not cut cleanly."""
    return bool(token.rstrip or token.single_word or token.normalized)
