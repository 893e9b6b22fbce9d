"""Several datasets as one stream of samples, taking turns."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, TypeVar

T = TypeVar("T")
_BLOCK = 4096
"""Numbers of `Chances` that share a seed."""


@dataclass
class Standing:
    """Whose turn comes next: all that `Turns` keeps, apart from the place in each source.

    Args:
        active: the sources that still take turns, by number.
        turn: counts turns, where they go around.
        choices: how often it was chosen by chance.
        used_up: the sources that have come to their end.
    """

    active: list[int]
    turn: int
    choices: int
    used_up: list[int]


class Turns(Iterator[T]):
    """The items of several sources, each in its turn.

    Args:
        starts: each starts a source from the beginning.
        strategy: "concat" takes one source after the other; "interleave_under" ends when a source has no more;
            "interleave_over" starts a source again that has no more, until all have been used up; "interleave_once"
            goes on with those that are left.
        probs: how often each source gets its turn; None: one after the other.
        chance: for `probs`, a number in [0, 1) for the n-th choice.
        at: the fields of an earlier one's `standing`, to go on from there.
        running: the sources at the place from which to go on.
    """

    def __init__(
        self,
        starts: Sequence[Callable[[], Iterator[T]]],
        strategy: str,
        probs: Sequence[float] | None,
        chance: Callable[[int], float],
        at: Mapping[str, Any] | None = None,
        running: Sequence[Iterator[T]] | None = None,
    ) -> None:
        self.starts, self.strategy, self.probs, self.chance = starts, strategy, probs, chance
        self.running = list(running) if running is not None else [start() for start in starts]
        self._now = Standing(list(range(len(starts))), 0, 0, [])
        if at is not None:
            self._now = Standing(list(at["active"]), at["turn"], at["choices"], list(at["used_up"]))

    @property
    def standing(self) -> dict[str, Any]:
        """The fields of a Standing, ready for JSON."""
        return asdict(self._now)

    def __next__(self) -> T:
        now = self._now
        while now.active:
            source = self._whose_turn()
            try:
                return next(self.running[source])
            except StopIteration:
                if source not in now.used_up:
                    now.used_up.append(source)
            if self.strategy in ("interleave_once", "concat"):
                now.turn = now.active.index(source)  # the one after it moves into its place
                now.active.remove(source)
            elif self.strategy == "interleave_under" or len(now.used_up) == len(self.starts):
                now.active = []
            else:
                self.running[source] = self.starts[source]()
                try:
                    return next(self.running[source])
                except StopIteration:  # an empty source has nothing to repeat
                    now.active.remove(source)
        raise StopIteration

    def _whose_turn(self) -> int:
        now = self._now
        if self.strategy == "concat":
            return now.active[0]
        if not self.probs:
            now.turn += 1
            return now.active[(now.turn - 1) % len(now.active)]
        edges = list(accumulate(self.probs[number] for number in now.active))
        now.choices += 1
        return now.active[bisect(edges, self.chance(now.choices - 1) * edges[-1], 0, len(edges) - 1)]


class Chances:
    """Numbers in [0, 1) that follow from a name and their own number, so that any of them is come to at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._next = -1

    def __call__(self, number: int) -> float:
        """The n-th of them; those after one another cost least."""
        block, before = divmod(number, _BLOCK)
        if number != self._next or not before:
            self._rng = random.Random(f"{self.name}/{block}")
            for _ in range(before):
                self._rng.random()
        self._next = number + 1
        return self._rng.random()


def interleave(
    sources: Sequence[Callable[[], Iterator[T]]], strategy: str, probs: Sequence[float] | None, seed: int
) -> Iterator[T]:
    """Take from each source in its turn.

    Args:
        sources, strategy, probs: as in `Turns`.
        seed: for `probs`.
    """
    rng = random.Random(f"interleave {seed}")
    return Turns(sources, strategy, probs, lambda _: rng.random())
