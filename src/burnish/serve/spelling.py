"""The bytes that each token of a tokenizer stands for: log-probabilities show them, a JSON grammar walks over them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """Bytes of tokens.

    `exact` tells whether every token's bytes are known, so that those of a text are the sum of its tokens': so with
    byte-level and sentencepiece tokenizers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        core = getattr(tokenizer, "backend_tokenizer", None)
        decoder = getattr(core, "decoder", None)  # asked by itself: the whole tokenizer as JSON takes a second
        kinds = _kinds(json.loads(decoder.__getstate__())) if decoder is not None else set()
        self._byte_level = "ByteLevel" in kinds
        self._pieces = not self._byte_level and bool(kinds & {"ByteFallback", "Metaspace", "Replace"})
        self.exact = self._byte_level or self._pieces

    def __call__(self, token: int) -> bytes:
        """The bytes of one token; of a special token, its name."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        return b"" if piece is None else self._of(piece, token)  # a row of the embeddings without a token

    def of_all(self, tokens: Iterable[int]) -> dict[int, bytes]:
        """The bytes of many tokens that are not special, a whole vocabulary in a fraction of a second."""
        pieces = {number: piece for piece, number in self._tokenizer.get_vocab().items()}
        return {token: self._of(pieces[token], token) if token in pieces else b"" for token in tokens}

    def _of(self, piece: str, token: int) -> bytes:
        if self._byte_level:
            return piece.translate(_byte_table()).encode("latin-1", "ignore")
        if self._pieces:
            found = _BYTE.fullmatch(piece)
            return bytes([int(found[1], 16)]) if found else piece.replace("▁", " ").encode()
        return str(self._tokenizer.decode([token])).encode()


def _kinds(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    inner = [_kinds(each) for each in decoder.get("decoders", ())]
    return {str(decoder.get("type"))}.union(*inner)


@cache
def _byte_table() -> dict[int, str | None]:
    """The byte, as a Latin-1 character, for each character by which byte-level tokenizers write one.

    That is the byte's own character where it can be seen, else a stand-in; other characters below 256 are no bytes.
    Source: the byte encoder of GPT-2 (Radford et al., 2019, section 2.2).
    """
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return dict.fromkeys(unseen) | {256 + place: chr(byte) for place, byte in enumerate(unseen)}
