"""SIGINT and SIGTERM ask the loop to finish its step, save and stop; a second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False
        self.nothing_to_save = False

    def __bool__(self) -> bool:
        return self.asked

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While the block runs there is nothing to save yet: already the first signal ends it.

        Raises:
            KeyboardInterrupt: a signal came, or had come before.
        """
        if self.asked:
            raise KeyboardInterrupt
        self.nothing_to_save = True
        try:
            yield
        finally:
            self.nothing_to_save = False


@contextmanager
def stop_on_signals(quiet: Callable[[], bool] = lambda: False) -> Iterator[StopRequest]:
    """While the block runs, the first SIGINT or SIGTERM sets the request; the second one ends it at once.

    Args:
        quiet: asked when the first one comes: whether to say nothing about it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers; a notebook's worker thread goes without
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: Any) -> None:
        if request.asked:
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)
            raise KeyboardInterrupt
        request.asked = True
        # Not print: the main thread may be in the middle of writing.
        if request.nothing_to_save:
            if not quiet():
                os.write(2, b"\nstopping; no step was made, so there is nothing to save.\n")
            raise KeyboardInterrupt
        if not quiet():
            os.write(2, b"\nstopping after this step, saving the state first. Once more to stop at once.\n")

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
