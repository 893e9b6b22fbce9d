"""Text from token ids as they come, without half characters."""

from __future__ import annotations

from typing import Any


class TextStream:
    """Turns ids into text piece by piece: a character of several tokens is held back until it is whole.

    Only the last few tokens are decoded anew with each token, so a long answer costs no more a token than a short one.
    They are decoded together with those before them, since a tokenizer may treat the first token of a text in its own
    way (SentencePiece drops a space).
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool = True) -> None:
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.ids: list[int] = []
        self._from = 0  # where decoding starts
        self._shown = 0  # ids whose text is out

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        self.ids.append(token)
        text = self._text(len(self.ids))
        return "" if text.endswith("\ufffd") else self._take(text)

    def finish(self) -> str:
        """What is still held back."""
        return self._take(self._text(len(self.ids)))

    def _take(self, text: str) -> str:
        new = text[len(self._text(self._shown)) :]
        self._from, self._shown = self._shown, len(self.ids)
        return new

    def _text(self, end: int) -> str:
        text: str = self.tokenizer.decode(
            self.ids[self._from : end],
            skip_special_tokens=self.skip_special_tokens,
            clean_up_tokenization_spaces=False,
        )
        return text
