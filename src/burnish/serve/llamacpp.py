"""llama.cpp as an engine, for .gguf files: our rendering and our protocol, its arithmetic.

It gets token ids, never text, so that a prompt is the one of training. Of what comes back, text is taken: llama.cpp
withholds the tokens of a character until it is whole and then names only the last of them.
"""

from __future__ import annotations

import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.errors import ModelError
from burnish.generate.llamacpp import start_llamacpp
from burnish.generate.request import Event, Request
from burnish.log import logger
from burnish.model.source import ModelSource
from burnish.serve.models import Served
from burnish.serve.worker import Backend

_LONGEST = 4096  # tokens a slot has room for, where the model knows more: the room is taken at the start
_WAIT_S = 0.2
_PATIENCE_S = 30.0
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p"]  # in the order of our own sampler


def load_llamacpp(source: ModelSource, served: Served, *, slots: int, cpu: bool, say: Callable[[str], None]) -> Backend:
    """Load a .gguf file into llama.cpp.

    Args:
        cpu: leave accelerators alone.
    Raises:
        MissingExtraError: xllamacpp is not installed.
        ModelError: llama.cpp cannot read the file.
    """
    file = Path(source.location) / str(source.gguf_file)
    window = min(_context_length(file), _LONGEST)
    server = start_llamacpp(file, window=window, slots=slots, cpu=cpu).server
    say(f"llama.cpp holds {slots} answers of {window} tokens each")
    engine = LlamaEngine(server, served, window, slots)
    return Backend(engine, "llamacpp", slots, shapes_logits=False, logprobs=False, close=engine.close)


def _context_length(file: Path) -> int:
    from gguf import GGUFReader

    for field in GGUFReader(file).fields.values():
        if field.name.endswith(".context_length"):
            return int(field.contents())
    return _LONGEST


class LlamaEngine:
    """The engine's contract over llama.cpp's own scheduler: a thread for each answer waits for its tokens."""

    def __init__(self, server: Any, served: Served, window: int, slots: int) -> None:
        self.window, self.slots = window, slots
        self._server, self._served = server, served
        self._chunks: queue.SimpleQueue[tuple[int, int, dict[str, Any] | None]] = queue.SimpleQueue()
        self._live: dict[tuple[int, int], Request] = {}
        self._queued: deque[tuple[int, int]] = deque()
        self._started: set[tuple[int, int]] = set()
        self._threads: dict[tuple[int, int], threading.Thread] = {}
        self._next = 0

    @property
    def busy(self) -> bool:
        return bool(self._live)

    @property
    def running(self) -> int:
        return len(self._started)

    @property
    def waiting(self) -> int:
        return len(self._queued)

    def submit(self, request: Request) -> int:
        """Queue a request. Raises ModelError where the context does not hold its prompt."""
        if not 0 < len(request.prompt) < self.window:
            raise ModelError(f"the prompt has {len(request.prompt)} tokens, and the context has {self.window}")
        self._next += 1
        for copy in range(request.copies):
            self._live[self._next, copy] = request
            self._queued.append((self._next, copy))
        return self._next

    def cancel(self, number: int) -> None:
        """Forget a request: its threads end with the next token that they see."""
        for key in [key for key in self._live if key[0] == number]:
            self._end(key)
        self._queued = deque(key for key in self._queued if key in self._live)

    def step(self) -> list[Event]:
        """Start what fits in, and hand over what has come; waits a moment where nothing has."""
        while self._queued and len(self._started) < self.slots:
            key = self._queued.popleft()
            self._started.add(key)
            self._threads[key] = threading.Thread(target=self._run, args=(key, self._live[key]), daemon=True)
            self._threads[key].start()
        events: list[Event] = []
        try:
            chunk = self._chunks.get(timeout=_WAIT_S)
            while True:
                number, copy, said = chunk
                events += self._read((number, copy), said)
                chunk = self._chunks.get_nowait()
        except queue.Empty:
            return events

    def close(self) -> None:
        """Forget everything and wait for the threads, which must not be inside llama.cpp when Python ends."""
        self._live.clear()
        for thread in list(self._threads.values()):
            thread.join(_PATIENCE_S)

    def _end(self, key: tuple[int, int]) -> None:
        self._live.pop(key, None)
        self._started.discard(key)

    def _run(self, key: tuple[int, int], request: Request) -> None:
        """Ask llama.cpp, in a thread of its own."""

        def take(chunk: dict[str, Any]) -> bool:
            self._chunks.put((*key, chunk))
            return key not in self._live  # True stops it

        try:
            self._server.handle_completions(_asked(request, key[1], self.window), take)
        except Exception:  # noqa: BLE001 - the answer ends, and the log has the reason
            logger.exception("llama.cpp failed")
        self._chunks.put((*key, None))
        del self._threads[key]

    def _read(self, key: tuple[int, int], chunk: dict[str, Any] | None) -> list[Event]:
        """A chunk of llama.cpp's as events."""
        request = self._live.get(key)
        if request is None:
            return []
        if chunk is None:  # its thread has ended, and no chunk said why
            self._end(key)
            return [Event(*key, None, ending="cancelled")]
        if "error" in chunk:
            logger.error("llama.cpp refused a request: %s", chunk["error"].get("message"))
            self._end(key)
            return [Event(*key, None, ending="cancelled")]
        [choice] = chunk["choices"]
        events = []
        for token in self._tokens(choice):
            stop = token in request.stop_ids
            events.append(Event(*key, token, ending="stop" if stop else None))
            if stop:
                self._end(key)
                return events
        if choice["finish_reason"]:
            self._end(key)
            ending: Any = "length" if choice["finish_reason"] == "length" else "stop"
            events.append(Event(*key, None, ending=ending))
        return events

    def _tokens(self, choice: dict[str, Any]) -> list[int]:
        """The tokens of a chunk; where it names fewer than its text needs, those that spell the text."""
        named = [entry["id"] for entry in (choice["logprobs"] or {}).get("content", ())]
        if not choice["text"] or b"".join(map(self._served.spelling, named)) == choice["text"].encode():
            return named
        ids: list[int] = self._served.tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
        return ids


def _asked(request: Request, copy: int, window: int) -> dict[str, Any]:
    """A request as llama.cpp takes it."""
    sampling = request.sampling
    asked = {
        "prompt": list(request.prompt),
        "n_predict": sampling.max_new_tokens,
        "stream": True,
        "cache_prompt": True,
        "n_probs": 1,  # brings the ids of tokens
        "samplers": _SAMPLERS,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": window,
    }
    if sampling.seed is not None:
        # Further copies must not be what neighbouring seeds give.
        seed = zlib.crc32(f"{sampling.seed}/{copy}".encode()) if copy else sampling.seed
        asked["seed"] = seed % (2**32 - 1)  # the largest of 32 bits would mean any seed
    return asked
