"""The bytes that each token of a tokenizer stands for: log-probabilities show them, a JSON grammar walks over them."""

from __future__ import annotations

import json
import re
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
        kinds = _kinds(json.loads(core.to_str()).get("decoder")) if core is not None else set()
        self._byte_level = "ByteLevel" in kinds
        self._pieces = not self._byte_level and bool(kinds & {"ByteFallback", "Metaspace", "Replace"})
        self.exact = self._byte_level or self._pieces

    def __call__(self, token: int) -> bytes:
        """The bytes of one token; of a special token, its name."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the embeddings without a token
            return b""
        if self._byte_level:
            table = _byte_table()
            return bytes(table[each] for each in piece if each in table)
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
def _byte_table() -> dict[str, int]:
    """The character by which byte-level tokenizers write each byte: itself where it can be seen, else a stand-in.

    Source: the byte encoder of GPT-2 (Radford et al., 2019, section 2.2).
    """
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(unseen)}
