"""What a judge will cost: tokens counted by eye before anything is sent, and money where prices are known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WIDE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\uffef]")
_LETTERS_A_TOKEN = 4.0  # English and code
_BYTES_A_TOKEN = 2.5  # other alphabets and signs, in UTF-8
_FRAME = 8  # tokens that a chat template puts around a message
REASON_TOKENS, BARE_TOKENS = 90, 12  # what replies usually take, with and without a reason


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens, in whatever currency the user counts in; None where prices are not known."""

    prompt: float | None = None
    reply: float | None = None

    def of(self, prompt_tokens: float, reply_tokens: float) -> float | None:
        """What so many tokens cost; None where prices are not known."""
        if self.prompt is None or self.reply is None:
            return None
        return (prompt_tokens * self.prompt + reply_tokens * self.reply) / 1e6


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked. `requests` are to be sent, `known` are in the cache and cost nothing.

    `reply_tokens` is what replies usually take, `most_reply_tokens` what they may take at most. Costs are None without
    prices.
    """

    requests: int
    known: int
    prompt_tokens: int
    reply_tokens: int
    most_reply_tokens: int
    cost: float | None
    most_cost: float | None


def guess_tokens(text: str) -> int:
    """About how many tokens a text has: 4 ASCII letters each, one for each Chinese or Japanese character.

    Tokenizers differ; expect a fifth more or less.
    """
    wide = len(_WIDE.findall(text))
    ascii_letters = sum(character.isascii() for character in text)
    others = len(text) - wide - ascii_letters
    return _FRAME + round(wide + ascii_letters / _LETTERS_A_TOKEN + others * 2 / _BYTES_A_TOKEN)


def estimate(prompts: Iterable[str], known: int, *, reasons: bool, max_tokens: int, prices: Prices) -> Estimate:
    """What asking these prompts will cost.

    Args:
        prompts: those that are not in the cache.
        known: how many are.
        max_tokens: of one reply.
    """
    counts = [guess_tokens(prompt) for prompt in prompts]
    asked = sum(counts)
    usual = len(counts) * min(max_tokens, REASON_TOKENS if reasons else BARE_TOKENS)
    most = len(counts) * max_tokens
    return Estimate(len(counts), known, asked, usual, most, prices.of(asked, usual), prices.of(asked, most))
