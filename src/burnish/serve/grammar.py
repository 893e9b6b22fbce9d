"""A small machine that knows, after each byte, which bytes may follow; and from that, which tokens may.

A control token is one more symbol beside the 256 bytes: text cannot spell it.

A grammar is a tree of nodes. A state is the set of everything that may still come, each a stack of nodes that begins
with a set of bytes. States are numbered and their transitions kept, so that a step costs a lookup once it was made.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class Node:
    """A piece of a grammar; compared by identity."""


@dataclass(eq=False)
class Bytes(Node):
    """One byte out of some, or one control token."""

    allowed: frozenset[int]


@dataclass(eq=False)
class InOrder(Node):
    """One after another; without parts, nothing."""

    parts: tuple[Node, ...]


@dataclass(eq=False)
class Either(Node):
    """One of several."""

    options: tuple[Node, ...]


@dataclass(eq=False)
class Many(Node):
    """Any number of something that is not empty."""

    part: Node


class Later(Node):
    """A node that is made when it is needed, so that grammars can contain themselves."""

    def __init__(self, make: Callable[[], Node]) -> None:
        self._make = make

    @cached_property
    def node(self) -> Node:
        return self._make()


Stack = tuple[Node, "Stack"] | None
DEAD = -1
_CONTROL = 256  # the symbol of control token 0
_DEEPEST = 300  # nodes of a stack: a text cannot be nested without end
_MOST_STATES = 5000  # kept of a grammar; a text that is nested in ever new ways makes ever new ones
_MOST_MASKS = 500


def text(value: str) -> Node:
    """A text as it stands."""
    return InOrder(tuple(Bytes(frozenset((byte,))) for byte in value.encode()))


def control(token: int) -> Node:
    """A control token, by its id."""
    return Bytes(frozenset((_CONTROL + token,)))


def one_of(characters: str) -> Node:
    """One of some ASCII characters."""
    return Bytes(frozenset(characters.encode()))


def between(first: int, last: int) -> Node:
    """A byte in a range, both ends included."""
    return Bytes(frozenset(range(first, last + 1)))


def seq(*parts: Node) -> Node:
    """One after another."""
    return InOrder(parts)


def maybe(part: Node) -> Node:
    """Something or nothing."""
    return Either((InOrder(()), part))


def up_to(part: Node, most: int) -> Node:
    """Something at most so many times."""
    node: Node = InOrder(())
    for _ in range(most):
        node = maybe(InOrder((part, node)))
    return node


class Machine:
    """The states of one grammar. Not thread-safe; the engine's thread alone uses it."""

    def __init__(self, root: Node) -> None:
        self._numbers: dict[frozenset[Stack], int] = {}
        self._states: list[frozenset[Stack]] = []
        self._next: list[dict[int, int]] = []
        self.start = self._number(self._open((root, None)))

    def ends(self, state: int) -> bool:
        """Whether the text may end here."""
        return None in self._states[state]

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte; DEAD where it may not stand there."""
        known = self._next[state]
        if byte not in known:
            follows: set[Stack] = set()
            for stack in self._states[state]:
                if stack is not None:
                    top, rest = stack
                    if isinstance(top, Bytes) and byte in top.allowed:
                        follows |= self._open(rest)
            known[byte] = self._number(follows) if follows else DEAD
        return known[byte]

    def walk(self, state: int, spelled: Iterable[int]) -> int:
        """The state after some more bytes."""
        for byte in spelled:
            state = self.step(state, byte)
            if state == DEAD:
                return DEAD
        return state

    @property
    def size(self) -> int:
        """How many states are known so far."""
        return len(self._states)

    @property
    def empty(self) -> bool:
        """Whether nothing follows the grammar."""
        return not self._states[self.start]

    def _number(self, stacks: Iterable[Stack]) -> int:
        key = frozenset(stacks)
        if key not in self._numbers:
            self._numbers[key] = len(self._states)
            self._states.append(key)
            self._next.append({})
        return self._numbers[key]

    def _open(self, stack: Stack) -> set[Stack]:
        """The same with the first node taken apart until bytes stand in front."""
        done: set[Stack] = set()
        seen: set[Stack] = set()
        todo = [stack]
        while todo:
            one = todo.pop()
            if one in seen or _depth(one) > _DEEPEST:
                continue
            seen.add(one)
            if one is None or isinstance(one[0], Bytes):
                done.add(one)
                continue
            node, rest = one
            if isinstance(node, Later):
                todo.append((node.node, rest))
            elif isinstance(node, Either):
                todo += [(option, rest) for option in node.options]
            elif isinstance(node, Many):
                todo += [rest, (node.part, one)]
            elif isinstance(node, InOrder):
                for part in reversed(node.parts):
                    rest = (part, rest)
                todo.append(rest)
        return done


def _depth(stack: Stack) -> int:
    depth = 0
    while stack is not None:
        stack, depth = stack[1], depth + 1
    return depth


class _Trie:
    """Tokens by their bytes: a part of a sorted list, taken apart where it is looked at.

    Most of a vocabulary is never walked over; to build all of its nodes at once takes seconds.

    Args:
        listed: (spelled, token), sorted. first, last: the part of it that begins with the same `depth` bytes.
        controls: tokens by symbols that are no bytes.
    """

    __slots__ = ("_below", "_depth", "_first", "_last", "_listed", "_tokens")

    def __init__(
        self, listed: list[tuple[bytes, int]], first: int, last: int, depth: int, controls: Mapping[int, int]
    ) -> None:
        self._listed, self._first, self._last, self._depth = listed, first, last, depth
        self._tokens: list[int] = []
        self._below: dict[int, _Trie] | None = None if first < last else {}
        if controls:
            self._open()
            self.below.update({symbol: _leaf(token) for symbol, token in controls.items()})

    @property
    def tokens(self) -> list[int]:
        """The tokens that end here."""
        self._open()
        return self._tokens

    @property
    def below(self) -> dict[int, _Trie]:
        """What follows, by the next byte."""
        self._open()
        assert self._below is not None
        return self._below

    def _open(self) -> None:
        if self._below is not None:
            return
        listed, place, depth = self._listed, self._first, self._depth
        while place < self._last and len(listed[place][0]) == depth:
            self._tokens.append(listed[place][1])
            place += 1
        self._below = {}
        while place < self._last:
            byte = listed[place][0][depth]
            end = bisect_right(listed, byte, place, self._last, key=lambda one: one[0][depth])
            self._below[byte] = _Trie(listed, place, end, depth + 1, {})
            place = end


def _leaf(token: int) -> _Trie:
    leaf = _Trie([], 0, 0, 0, {})
    leaf.tokens.append(token)
    return leaf


class Vocabulary:
    """The tokens of a model, ready for machines to walk over.

    `plain`: tokens of whole characters that leave a JSON string as it is; they are most of a vocabulary and are walked
    over only where a state is not inside a string.

    Args:
        written: the bytes of those that stand for bytes.
        controls: those that stand for themselves.
    """

    def __init__(self, written: Mapping[int, bytes], controls: Iterable[int] = ()) -> None:
        symbols = {_CONTROL + token: token for token in controls}
        self.spelled: dict[int, Sequence[int]] = {**written, **{token: (each,) for each, token in symbols.items()}}
        listed = sorted((spelled, token) for token, spelled in written.items() if spelled)
        special = [one for one in listed if not _is_plain(one[0])]
        self.all = _Trie(listed, 0, len(listed), 0, symbols)
        self.special = _Trie(special, 0, len(special), 0, symbols)
        self.plain = [token for spelled, token in listed if _is_plain(spelled)]


_NOT_IN_STRINGS = re.compile(rb'[\x00-\x1f"\\]')


def _is_plain(spelled: bytes) -> bool:
    if _NOT_IN_STRINGS.search(spelled):
        return False
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return False
    return True


_PROBES = [bytes((byte,)) for byte in range(0x20, 0x80) if byte not in b'"\\']
_PROBES += [each.encode() for each in ("é", "ࠀ", "世", "퟿", "", "𐀀", "󠀀", "􏿿")]


class Guide:
    """Forbids tokens that would leave a grammar. One for each grammar; requests may share it.

    Args:
        stop_ids: what may come only where the text may end.
        rows: how many logits the model gives.
    """

    def __init__(self, root: Node, vocabulary: Vocabulary, stop_ids: Sequence[int], rows: int) -> None:
        self._root, self.machine = root, Machine(root)
        self._vocabulary, self._stops, self._rows = vocabulary, [each for each in stop_ids if each < rows], rows
        self._after: dict[tuple[int, int], int] = {}
        self._masks: dict[int, Tensor] = {}

    def shape(self, sampled: list[int], logits: Tensor) -> Tensor:
        """Logits [V] with -inf for what may not come after the tokens so far."""
        if self.machine.size > _MOST_STATES or len(self._masks) > _MOST_MASKS:
            self.machine = Machine(self._root)
            self._after.clear()
            self._masks.clear()
        state = self.machine.start
        for token in sampled:
            state = self._step(state, token)
        return logits.masked_fill(self._mask(state).to(logits.device), float("-inf"))

    def _step(self, state: int, token: int) -> int:
        key = state, token
        if key not in self._after:
            self._after[key] = self.machine.walk(state, self._vocabulary.spelled.get(token, b""))
        return self._after[key]

    def _mask(self, state: int) -> Tensor:
        """[V], True for what is forbidden."""
        if state not in self._masks:
            allowed: list[int] = []
            tree = self._vocabulary.all
            if self._inside_string(state):
                allowed, tree = list(self._vocabulary.plain), self._vocabulary.special
            todo = [(state, tree)]
            while todo:
                at, node = todo.pop()
                allowed += node.tokens
                todo += [
                    (to, below) for byte, below in node.below.items() if (to := self.machine.step(at, byte)) != DEAD
                ]
            if self.machine.ends(state):
                allowed += self._stops
            mask = torch.ones(self._rows, dtype=torch.bool)
            mask[torch.tensor([each for each in allowed if each < self._rows], dtype=torch.long)] = False
            self._masks[state] = mask
        return self._masks[state]

    def _inside_string(self, state: int) -> bool:
        """Whether any plain character may come and changes nothing."""
        return all(self.machine.walk(state, probe) == state for probe in _PROBES)
