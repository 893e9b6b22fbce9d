"""Answers that end at given words: the engine's tokens, watched for texts at which to stop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from burnish.generate import Request, Sampling
from burnish.generate.engine import Engine

TOKENS_AT_ONCE = 16384  # keys and values of all rows together, prompts and answers counted in full
_MOST_ROWS = 64
_LOOK_BACK = 2  # tokens more than a text is spelt in: it may be spelt in other ones


class Asked(NamedTuple):
    """A prompt, how to continue it, and the texts at which the answer ends."""

    prompt: tuple[int, ...]
    sampling: Sampling
    until: tuple[str, ...] = ()


def answer_all(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Asked],
    *,
    stop_ids: Collection[int],
    rows_at_once: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Continue prompts up to a stop token, a stop text or the limit.

    A stop text may begin and end in the middle of a token; what stands before it is the answer. It is looked for in
    the text with special tokens, so the name of a special token stops as well; the answer itself is without them.

    Args:
        model: a causal language model of transformers, in eval mode.
        asked: the prompts. Long ones begin first.
        rows_at_once: rows that run at a time; None takes as many as TOKENS_AT_ONCE allows.
        on_done: called with the number of each prompt when its answer is finished.
    Returns:
        The answers in order.
    Raises:
        ModelError: a prompt is empty or leaves no room in the model's window.
    """
    if not asked:
        return []
    longest = max(len(each.prompt) + each.sampling.max_new_tokens for each in asked)
    slots = rows_at_once or max(1, min(_MOST_ROWS, TOKENS_AT_ONCE // longest))
    engine = Engine(model, slots=min(slots, len(asked)), pad_id=tokenizer.pad_token_id or 0)
    numbers = {}
    for place in sorted(range(len(asked)), key=lambda place: -len(asked[place].prompt)):
        request = Request(asked[place].prompt, frozenset(stop_ids), asked[place].sampling)
        numbers[engine.submit(request)] = place
    watches = [_Watch(tokenizer, each.until) for each in asked]
    answers = [""] * len(asked)
    while engine.busy:
        for event in engine.step():
            place = numbers[event.request]
            watch = watches[place]
            stopped = event.ending != "stop" and event.token is not None and watch.push(event.token)
            if stopped and not event.ending:
                engine.cancel(event.request)
            if stopped or event.ending:
                answers[place] = watch.text()
                on_done(place)
    return answers


class _Watch:
    """The tokens of one answer so far."""

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self.tokenizer, self.until = tokenizer, [text for text in until if text]
        self.ids: list[int] = []
        spelt = [len(tokenizer.encode(text, add_special_tokens=False)) for text in self.until]
        self.window = max(spelt, default=0) + _LOOK_BACK

    def push(self, token: int) -> bool:
        """Take a token; tells whether a stop text is there now."""
        self.ids.append(token)
        if not self.until:
            return False
        end = self.tokenizer.decode(self.ids[-self.window :], clean_up_tokenization_spaces=False)
        return any(text in end for text in self.until)

    def text(self) -> str:
        """The answer, cut before the first stop text in it."""
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cut(text, self.until)


def cut(text: str, until: Sequence[str]) -> str:
    """A text up to the first of some others in it."""
    return text[: min((place for word in until if word and (place := text.find(word)) >= 0), default=len(text))]
