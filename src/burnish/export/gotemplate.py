"""A chat template as Ollama writes one: Go's text/template, found by rendering conversations with the Jinja one.

Any template that writes each turn's words once and in order is a table: what stands before the words of a turn, by
who spoke before. The table is read off from one long conversation and held against others; a template that does
something else besides (moves the system message, trims words, prints tools) is told in words or not written at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from burnish.data.records import Conversation, Turn
from burnish.template import ChatTemplate
from burnish.template.render import CannotRender

_WORDS = ("probe of the system", "first question", "first answer", "second question", "second answer", "third question")
_ROLES = ("system", "user", "assistant", "user", "assistant", "user")


@dataclass(frozen=True)
class GoTemplate:
    """A template for Ollama.

    Attributes:
        text: the Go template; None where the chat template cannot be written as one.
        limits: sentences on what the Go template cannot do, or why there is none.
    """

    text: str | None
    limits: list[str] = field(default_factory=list)


def go_template(template: ChatTemplate, *, without: str = "") -> GoTemplate:
    """Find the Go template that renders as the chat template does.

    Args:
        without: the beginning token's text, where Ollama itself puts it before the prompt.
    """
    try:
        before = _before(template)
        limits = _limits(template)
    except CannotRender as error:
        return GoTemplate(None, [f"the chat template cannot be written for Ollama: {error.what}"])
    if before is None:
        return GoTemplate(None, ["the chat template changes or moves what is said, which Ollama's templates cannot"])
    if without:
        before = {key: text.removeprefix(without) if key[0] == "" else text for key, text in before.items()}
    return GoTemplate(_written(before), limits)


Before = dict[tuple[str, str], str]
"""(who spoke before, "" at the beginning; who speaks, "" for the answer that is asked for) → the text in between."""


def _before(template: ChatTemplate) -> Before | None:
    """What stands between the words of two turns. None where words are not written once each, in order, untouched."""
    found: Before = {}
    for first in (0, 1) if template.abilities.system else (1,):
        for last in range(2 if first == 0 else first + 1, len(_WORDS) + 1):
            roles, words = _ROLES[first:last], _WORDS[first:last]
            if roles[-1] != "user":
                continue
            parts = _between(template, roles, words)
            if parts is None:
                return None
            for key, part in zip(zip(("", *roles), (*roles, ""), strict=True), parts, strict=True):
                if found.setdefault(key, part) != part:
                    return None
    return found


def _between(template: ChatTemplate, roles: tuple[str, ...], words: tuple[str, ...]) -> list[str] | None:
    turns = tuple(Turn(role, text) for role, text in zip(roles, words, strict=True))  # type: ignore[arg-type]
    rest = _plain(template, turns)
    parts = []
    for text in words:
        part, met, rest = rest.partition(text)
        if not met or text in rest:
            return None
        parts.append(part)
    return [*parts, rest]


def _plain(template: ChatTemplate, turns: tuple[Turn, ...]) -> str:
    """Rendered without the run's default system turn: Ollama puts that in itself, from SYSTEM."""
    return template.encoder.plain(template.marked_text(Conversation(turns), True))


def _limits(template: ChatTemplate) -> list[str]:
    """What the Go template does not do as the chat template does."""
    limits = []
    asked = (Turn("user", _WORDS[1]),)
    if _cuts_blanks(template):
        limits.append("blanks around a message are cut off in training and kept by Ollama")
    if template.abilities.tools or template.abilities.calls:
        limits.append("tools and tool calls are left out: this is for plain chat")
    if template.abilities.reasoning:
        limits.append("reasoning of earlier answers stays in the conversation, if the client sends it")
    if _prints_the_day(template, asked):
        limits.append("the day of this export stands in it as a constant")
    return limits


def _cuts_blanks(template: ChatTemplate) -> bool:
    """Whether blanks around anybody's words are left out; some templates do so with answers only."""
    turns = zip(_ROLES, _WORDS, strict=True)
    asked = tuple(Turn(role, f"  {text} \n") for role, text in turns if role != "system" or template.abilities.system)  # type: ignore[arg-type]
    written = _plain(template, asked)
    return any(turn.content not in written for turn in asked)


def _prints_the_day(template: ChatTemplate, turns: tuple[Turn, ...]) -> bool:
    messages, tools = template.marked_messages(Conversation(turns))
    now = template.today or datetime.now()
    return _at(template, now, messages, tools) != _at(template, now + timedelta(days=40), messages, tools)


def _at(template: ChatTemplate, day: datetime, messages: list, tools: list) -> str:
    kind, (made,) = template.__reduce__()
    return str(kind({**made, "today": day}).render(messages, tools, True))


def _written(before: Before) -> str:
    """The Go template of a table."""
    branches = []
    for role in ("system", "user", "assistant"):
        texts = {said: text for (said, speaks), text in before.items() if speaks == role}
        if texts:
            branches.append(f'if eq .Role "{role}" }}}}{_by_speaker(texts)}{{{{ .Content }}}}')
    turns = "{{ " + "{{ else ".join(branches) + "{{ end }}"
    loop = '{{ $before := "" }}{{ range .Messages }}' + turns + "{{ $before = .Role }}{{ end }}"
    asked = before.get(("user", ""), "")
    return loop + ('{{ if eq $before "user" }}' + _literal(asked) + "{{ end }}" if asked else "")


def _by_speaker(texts: dict[str, str]) -> str:
    """The text before a turn, by who spoke before; the commonest text is the rule."""
    rule = max(texts.values(), key=list(texts.values()).count)
    others = {said: text for said, text in texts.items() if text != rule}
    if not others:
        return _literal(rule)
    cases = [f'if eq $before "{said}" }}}}{_literal(text)}' for said, text in others.items()]
    return "{{ " + "{{ else ".join(cases) + "{{ else }}" + _literal(rule) + "{{ end }}"


def _literal(text: str) -> str:
    """Text that a Go template writes as it is."""
    return text.replace("{{", '{{ "{{" }}')
