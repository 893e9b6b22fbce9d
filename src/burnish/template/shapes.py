"""Conversations of one shape: same roles, plain words. How they become text and labels is worked out once for all.

Rendering a template takes longer than tokenizing what it writes. So a template is rendered once with symbols for the
words (`symbols.py`), and the rows that `plan.py` would make are worked out on these: for every conversation of that
shape, or not at all. Where a span begins depends on words only by the number of control tokens before it, and words
hold none. What cannot be shown to hold for all words has no shape and is rendered and planned one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from burnish.data.records import Conversation, Turn
from burnish.errors import TemplateError
from burnish.template.encode import Encoder
from burnish.template.plan import SHORT_CHARS
from burnish.template.symbols import Condition, Content, NotSymbolic, Parts, render_symbols, value_of

if TYPE_CHECKING:
    from burnish.template.chat import ChatTemplate

_EACH = 8
"""Shapes, and failed attempts at one, for the same roles; templates seldom look at words in more ways."""
_ALL = 1000
_THOUGHT_END = "</think>"
_Place = tuple[int, int]
"""Which part of a text, and how many characters into it."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a span ends in the ids of a row: after `words`, which begin at the control token of a number.

    Number -1 is the beginning of the row. Edges at the end of a row are None instead.
    """

    control: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a row: where it begins, where its stop token ends (None: the row's end), and if it is trained."""

    begin: Edge
    end: Edge | None
    trained: bool


@dataclass(slots=True)
class Shape:
    """How conversations of the same roles become one row each.

    `controls`: control tokens a row has, the closing one included. `checks`: further edges that must lie between
    tokens. `closing_id` as in `Plan`. `uses` counts the rows made this way.
    """

    parts: Parts
    conditions: tuple[Condition, ...]
    controls: int
    answers: tuple[Answer, ...]
    checks: tuple[Edge, ...]
    closing_id: int | None
    uses: int = 0
    _texts: list[str] = field(init=False)
    _slots: list[tuple[int, int]] = field(init=False)
    _others: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._texts = [part if isinstance(part, str) else "" for part in self.parts]
        self._slots = [(place, part.turn) for place, part in enumerate(self.parts) if isinstance(part, Content)]
        kinds = (str, Content)
        self._others = [place for place, part in enumerate(self.parts) if not isinstance(part, kinds)]

    def text(self, contents: Sequence[str]) -> str:
        """The rendered text, for words that meet the conditions."""
        texts = self._texts.copy()
        for place, turn in self._slots:
            texts[place] = contents[turn]
        for place in self._others:
            texts[place] = value_of((self.parts[place],), contents)
        return "".join(texts)

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether the template answers for these words as it did for those the shape was made of."""
        return all(condition.holds(contents) for condition in self.conditions)


class Shapes:
    """The shapes of a template, found as conversations come."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._known: dict[tuple[object, ...], list[Shape | None]] = {}
        self._default = template.default_system
        self._plain = template.encoder.is_plain

    def find(self, conversation: Conversation, *, last_only: bool) -> tuple[Shape, list[str]] | None:
        """The shape of a conversation and its words, or None where it must be looked at by itself.

        Words that spell control tokens, tools, calls, reasoning, and weights besides 0 and 1 have no shape.
        """
        if conversation.tools:
            return None
        roles, weights, contents = [], [], []
        for turn in conversation.turns:
            if turn.reasoning is not None or turn.tool_calls or turn.name or turn.call_id:
                return None
            roles.append(turn.role)
            weights.append(turn.weight)
            contents.append(turn.content)
        if self._default and roles[:1] != ["system"]:
            roles, weights, contents = ["system", *roles], [1.0, *weights], [self._default, *contents]
        for text in contents:
            if not self._plain(text):
                return None
        key = (last_only, *roles, *weights)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _ALL or not self._template.encoder.guards:
                return None
            known = self._known.setdefault(key, [])
        for shape in known:
            if shape is not None and shape.fits(contents):
                return shape, contents
        if len(known) >= _EACH:
            return None
        known.append(_shape(self._template, conversation, contents, last_only))
        return None if known[-1] is None else (known[-1], contents)

    def forget(self, shape: Shape) -> None:
        """Take a shape back; its conversations are looked at one by one from now on."""
        for known in self._known.values():
            known[:] = [None if each is shape else each for each in known]


def _shape(template: ChatTemplate, conversation: Conversation, contents: list[str], last_only: bool) -> Shape | None:
    try:
        turns = template.complete(conversation).turns
        if [turn.content for turn in turns] != contents or any(turn.weight not in (0, 1) for turn in turns):
            return None
        return _Maker(template, turns, contents).shape(last_only)
    except (NotSymbolic, TemplateError):
        return None


@dataclass(frozen=True, slots=True)
class _Shown:
    """`plan._Shown` in parts."""

    parts: Parts
    begin: _Place
    stop: _Place | None


class _Maker:
    """What `plan.make_plans` does, on parts. Raises NotSymbolic where it depends on the words."""

    def __init__(self, template: ChatTemplate, turns: Sequence[Turn], contents: list[str]) -> None:
        self.template, self.turns, self.contents = template, turns, contents
        self.encoder = template.encoder
        self.conditions: dict[Condition, None] = {}
        if template.enable_thinking is False:  # then thoughts are taken out of answers
            for place, turn in enumerate(turns):
                if turn.role == "assistant":
                    self.conditions[Condition("__contains__", _THOUGHT_END, (Content(place),), False)] = None

    def shape(self, last_only: bool) -> Shape:
        answers = [place for place, turn in enumerate(self.turns) if turn.role == "assistant"]
        if not answers or answers[-1] != len(self.turns) - 1:
            raise NotSymbolic("the last turn is no answer")
        shown = {place: self._show(place) for place in (answers[-1:] if last_only else answers)}
        whole = shown[answers[-1]]
        controls = _controls(self.encoder, whole.parts)
        edges: list[Edge | None] = []
        made: list[Answer] = []
        for place, answer in shown.items():
            begin = self._edge(whole.parts, controls, answer.begin)
            if begin is None:
                raise NotSymbolic("an answer without words")
            stop = None
            if answer.stop is not None:
                if place != answers[-1] and not _begins(_until(answer.parts, answer.stop), whole.parts):
                    raise NotSymbolic("an earlier answer is rewritten")
                stop = self._edge(whole.parts, controls, answer.stop)
            elif place != answers[-1]:
                raise NotSymbolic("an earlier answer has no end")
            made.append(Answer(begin, stop, bool(self.turns[place].weight)))
            if answer.stop is not None and not _at_end(answer.parts, answer.stop):
                tail = _begins(answer.parts, whole.parts)
                if tail:
                    edges.append(self._edge(whole.parts, controls, tail))
        checks = tuple(edge for edge in edges if edge is not None)
        closing = self.template.terminator_id if whole.stop is None else None
        count = len(controls) + (closing in self.encoder.control_ids)
        return Shape(whole.parts, tuple(self.conditions), count, tuple(made), checks, closing)

    def _render(self, turns: int, generate: bool) -> Parts:
        roles = [turn.role for turn in self.turns[:turns]]
        parts, conditions = render_symbols(self.template.renderer, roles, self.contents[:turns], generate=generate)
        self.conditions.update(dict.fromkeys(conditions))
        return parts

    def _show(self, place: int) -> _Shown:
        before, parts = self._render(place, True), self._render(place + 1, False)
        begin = _begins(before, parts)
        if not begin:
            raise NotSymbolic("an answer does not follow its prompt")
        controls = _controls(self.encoder, parts)
        if any(part == begin[0] and start < begin[1] < end for part, start, end, _ in controls):
            raise NotSymbolic("an answer begins within a control token")
        names = self.template.stop_names
        stops = ((part, end) for part, start, end, name in controls if name in names and (part, start) >= begin)
        return _Shown(parts, begin, next(stops, None))

    def _edge(self, parts: Parts, controls: Sequence[tuple[int, int, int, str]], place: _Place) -> Edge | None:
        """The place as `plan._cut` would find it. None at the end of the text."""
        if _at_end(parts, place):
            return None
        before = [number for number, control in enumerate(controls) if control[:2] < place]
        number = before[-1] if before else -1
        part, start, end, name = controls[number] if before else (0, 0, 0, "")
        if (part, end) == place and name:
            found = self.encoder.token_id(name)
            assert found is not None
            return Edge(number, (found,))
        literal = parts[part]
        if place == (0, 0):
            return Edge(-1, ())
        if part != place[0] or not isinstance(literal, str):
            raise NotSymbolic("words stand between an edge and the last control token")
        if place[1] - start > SHORT_CHARS or (name and self.encoder.is_wide(name)):
            raise NotSymbolic("an edge too far from a control token")
        return Edge(number, self.encoder.encode_short(literal[start : place[1]]))


def _controls(encoder: Encoder, parts: Parts) -> list[tuple[int, int, int, str]]:
    """The control tokens of a text: part, start and end in it, name. Raises NotSymbolic where words could make one.

    Words hold no whole name. So none can arise unless a literal ends with the beginning of a name, begins with the
    end of one, or lies within one.
    """
    names = encoder.controls
    for place, part in enumerate(parts):
        if not isinstance(part, str):
            if place and not isinstance(parts[place - 1], str):
                raise NotSymbolic("words follow words")
            continue
        for name in names:
            inner = range(1, len(name))
            if place + 1 < len(parts) and any(part.endswith(name[:cut]) for cut in inner):
                raise NotSymbolic("a literal ends like the beginning of a control token")
            if place and (part in name[1:] or any(part.startswith(name[cut:]) for cut in inner)):
                raise NotSymbolic("a literal begins like the end of a control token")
    return [
        (place, match.start(), match.end(), match[0])
        for place, part in enumerate(parts)
        if isinstance(part, str)
        for match in encoder.controls_in(part)
    ]


def _begins(short: Parts, long: Parts) -> _Place | None:
    """Where a text that begins another ends in it; None where it surely does not begin it.

    Raises NotSymbolic where that depends on the words.
    """
    for place, part in enumerate(short):
        other = long[place] if place < len(long) else ""
        if part == other:
            continue
        if not isinstance(part, str) or not isinstance(other, str):
            raise NotSymbolic("whether a text begins another depends on the words")
        if place == len(short) - 1 and other.startswith(part):
            return place, len(part)
        if part.startswith(other) or other.startswith(part):
            raise NotSymbolic("whether a text begins another depends on the words")
        return None
    last = short[-1] if short else None
    return (len(short) - 1, len(last)) if isinstance(last, str) else (len(short), 0)


def _until(parts: Parts, place: _Place) -> Parts:
    part, offset = place
    literal = parts[part] if part < len(parts) else ""
    return (*parts[:part], literal[:offset]) if offset and isinstance(literal, str) else parts[:part]


def _at_end(parts: Parts, place: _Place) -> bool:
    """Whether nothing follows a place."""
    part, offset = place
    literal = parts[part] if part < len(parts) else ""
    if isinstance(literal, str) and offset < len(literal):
        return False
    after = parts[part:] if not isinstance(literal, str) else parts[part + 1 :]
    if after and not any(isinstance(each, str) for each in after):
        raise NotSymbolic("whether anything follows depends on the words")
    return not after
