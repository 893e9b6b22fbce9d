"""Text from token ids as they come, without half characters."""

from __future__ import annotations

from typing import Any


class TextStream:
    """Turns ids into text piece by piece: a character of several tokens is held back until it is whole."""

    def __init__(self, tokenizer: Any, skip_special_tokens: bool = True) -> None:
        self.tokenizer, self.skip_special_tokens = tokenizer, skip_special_tokens
        self.ids: list[int] = []
        self.shown = ""

    def push(self, token: int) -> str:
        """The text that this token completes; may be empty."""
        self.ids.append(token)
        text = self._text()
        if text.endswith("\ufffd"):
            return ""
        new = text[len(self.shown) :]
        self.shown = text
        return new

    def finish(self) -> str:
        """What is still held back."""
        text = self._text()
        new = text[len(self.shown) :]
        self.shown = text
        return new

    def _text(self) -> str:
        return self.tokenizer.decode(
            self.ids, skip_special_tokens=self.skip_special_tokens, clean_up_tokenization_spaces=False
        )
