"""Reasoning in an answer: what stands between `<think>` and `</think>`, told apart from what is said."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def split_thought(text: str, thinking: bool = False) -> tuple[str | None, str]:
    """An answer as (reasoning, what is said after it), as the templates that know reasoning cut it.

    Args:
        thinking: the prompt has opened the thought already.
    Returns:
        Reasoning is None where there is no thought, or an empty one. Of a thought that never ends all is reasoning.
    """
    if not thinking and not text.lstrip().startswith(OPEN):
        return None, text
    thought, closed, said = text.partition(CLOSE)
    thought = thought.split(OPEN, 1)[-1].strip("\n")
    return thought or None, said.lstrip("\n") if closed else ""


class ThoughtMarker:
    """Says of text that comes in pieces which of it is thought; a tag may be spread over several pieces."""

    def __init__(self, thinking: bool = False) -> None:
        self.thinking = thinking
        self._held = ""

    def push(self, text: str) -> list[tuple[str, bool]]:
        """What can be shown by now: (text, whether it is thought). Tags belong to the thought."""
        self._held += text
        found: list[tuple[str, bool]] = []
        while self._held:
            tag = CLOSE if self.thinking else OPEN
            before, seen, after = self._held.partition(tag)
            if seen:
                found += [(before, self.thinking)] * bool(before) + [(tag, True)]
                self._held, self.thinking = after, not self.thinking
                continue
            begun = next((n for n in range(len(tag) - 1, 0, -1) if self._held.endswith(tag[:n])), 0)
            shown = self._held[: len(self._held) - begun]
            found += [(shown, self.thinking)] * bool(shown)
            self._held = self._held[len(shown) :]
            break
        return found

    def finish(self) -> list[tuple[str, bool]]:
        """What was held back because it might have become a tag."""
        held, self._held = self._held, ""
        return [(held, self.thinking)] if held else []
