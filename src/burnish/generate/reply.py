"""An answer while it is given: an iterator over its text that can be stopped between two tokens."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from burnish.data.records import Turn
from burnish.generate.request import Ending, Sampling
from burnish.generate.thought import split_thought

Put = Callable[[str, int], None]
"""Takes a piece of text (may be empty) and how many tokens it took; raises Cancelled once nobody wants more."""


class Cancelled(Exception):
    """The listener has gone; whoever writes the answer lets it pass."""


class Reply(Iterator[str]):
    """The pieces of an answer as they come.

    The answer is written by a thread of its own, so that Ctrl-C reaches the listener at once and the writer only
    between two tokens. What the thread raises is raised to the listener.

    Args:
        write: calls its argument with each piece; returns how the answer ended.
        waits: whether `close` waits for the writer: a local model must not be asked twice at once.
        keeps_thoughts: whether a thought in the answer is to be told apart from it.
        thinking: whether the prompt ends within a thought that it has opened.
    Attributes:
        text: what was said so far. `tokens`: tokens of it. `ending`: None while more may come.
    """

    def __init__(
        self,
        write: Callable[[Put], Ending],
        *,
        waits: bool = True,
        keeps_thoughts: bool = False,
        thinking: bool = False,
    ) -> None:
        self.text, self.tokens = "", 0
        self.ending: Ending | None = None
        self.keeps_thoughts, self.thinking = keeps_thoughts, thinking
        self._pieces: queue.SimpleQueue[tuple[str, int] | Ending | BaseException] = queue.SimpleQueue()
        self._gone = threading.Event()
        self._write, self._waits = write, waits
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="burnish-reply", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._pieces.put(self._write(self._put))
        except Cancelled:
            self._pieces.put("cancelled")
        except BaseException as error:  # noqa: BLE001 - raised again in the listener's thread
            self._pieces.put(error)

    def _put(self, text: str, tokens: int) -> None:
        if self._gone.is_set():
            raise Cancelled
        self._pieces.put((text, tokens))

    def __next__(self) -> str:
        while self.ending is None:
            found = self._pieces.get()
            self._seconds = time.perf_counter() - self._started
            if isinstance(found, BaseException):
                self.ending = "cancelled"
                raise found
            if isinstance(found, str):
                self.ending = found
                break
            text, tokens = found
            self.tokens += tokens
            self.text += text
            if text:
                return text
        raise StopIteration

    def close(self) -> None:
        """Want no more of it. Returns once the writer has stopped, where it has to be waited for."""
        self._gone.set()
        if self.ending is None:
            self.ending = "cancelled"
        if self._waits:
            self._thread.join()

    @property
    def seconds(self) -> float:
        """From the question to the last piece."""
        return self._seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer by the time from the question to its last piece, reading the question included."""
        return self.tokens / max(self._seconds, 1e-9)

    @property
    def turn(self) -> Turn:
        """The answer as a turn of the conversation. One that did not come to its end weighs 0: nobody should learn to
        stop there."""
        thought, said = split_thought(self.text, self.thinking) if self.keeps_thoughts else (None, self.text)
        return Turn("assistant", said, reasoning=thought, weight=1.0 if self.ending == "stop" else 0.0)


class Speaker(Protocol):
    """What can be talked to: a model here, or one behind a URL."""

    name: str
    turns: list[Turn]

    def begin(self, turns: Sequence[Turn], *, seed: int | None = ...) -> Reply:
        """Begin to answer a conversation that ends with a user's turn, without remembering it."""

    def steer(self, sampling: Sampling, given: Collection[str]) -> None:
        """Take other values of the sampler; `given` are the names that the user has set."""
