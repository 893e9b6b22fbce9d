"""Shapes: what a template writes for all words of the same roles, and what it must not be trusted with."""

from __future__ import annotations

from datetime import datetime

import pytest

from burnish.data.records import Conversation, Turn
from burnish.template import ChatTemplate
from burnish.template.render import Renderer
from burnish.template.symbols import Content, NotSymbolic, render_symbols
from tests.conftest import build_tokenizer

EACH = "{% for m in messages %}"
CHAT = (
    EACH
    + "<|im_start|>{{ m.role }}\n{{ WORDS }}<|im_end|>\n{% endfor %}"
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES = ("user", "assistant")


def parts_of(source, contents=("one", "two"), today=None):
    return render_symbols(Renderer(source, "test", {}, today), ROLES, contents, generate=False)


def talk(*words):
    return Conversation(tuple(Turn(ROLES[place % 2], text) for place, text in enumerate(words)))


def test_the_parts_are_what_the_template_writes_around_the_words():
    parts, conditions = parts_of(EACH + "[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}")
    assert parts == ("[user: ", Content(0), "][assistant: ", Content(1), "]")
    assert conditions == ()


@pytest.mark.parametrize(
    "written",
    [
        "{{ m.content | trim }}",
        "{{ m.content.strip() + '!' }}",
        "{{ '(' ~ m.content ~ ')' }}",
        "{% set text = '(' + m.content %}{{ text.lstrip('(') }}",
        "{% macro show(x) %}<{{ x }}>{% endmacro %}{{ show(m.content) | trim }}",
        "{% if m.content is string and m.content %}{{ m.content }}{% else %}none{% endif %}",
        "{% if '</x>' in m.content %}{{ m.content.split('</x>')[-1] }}{% else %}{{ m.content }}{% endif %}",
        "{% if m.content.startswith(' ') %}space{% endif %}{{ m.content.replace('a', 'b') }}",
        "{% set ns = namespace(text='') %}{% set ns.text = ns.text + m.content %}{{ ns.text }}",
        "{{ m.content if m.content == 'one' else 'other' }}",
    ],
)
def test_a_shape_writes_what_the_template_itself_writes(written):
    template = ChatTemplate(build_tokenizer(), CHAT.replace("{{ WORDS }}", written))
    for words in (("one", "two"), (" one ", "\ntwo\n"), ("a</x>b", "c"), ("((aa", ")"), ("one", "</x>")):
        conversation = talk(*words)
        found = template.shapes.find(conversation, last_only=False)
        if found is not None:
            shape, contents = found
            assert shape.text(contents) == template.text(conversation, generate=False)
        else:
            assert "split" in written
            assert "</x>" in "".join(words)


@pytest.mark.parametrize(
    "written",
    [
        "{{ m.content | length }}",
        "{{ m.content | upper }}",
        "{{ m.content[0] }}",
        "{{ m.content | tojson }}",
        "{{ '%s' % m.content }}",
        "{{ '{}'.format(m.content) }}",
        "{{ m.content.split(' ')[0] }}",
        "{{ m.content | int }}",
        "{{ m.content in 'one two' }}",
        "{{ {'one': 1}[m.content] }}",
        "{% for c in m.content %}{{ c }}{% endfor %}",
        "{{ [m.content, 'x'] | join(' ') }}",
        "{{ m.content.title() }}",
        "{{ m.content is lower }}",
        "{{ messages[0].content == messages[1].content }}",
        "{{ strftime_now('%Y') }}{{ m.content }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_what_depends_on_the_words_in_other_ways_has_no_parts(written):
    with pytest.raises(NotSymbolic):
        parts_of(EACH + written + "{% endfor %}")


def test_a_day_that_is_given_is_part_of_the_text():
    parts, _ = parts_of("{{ strftime_now('%Y') }}{{ messages[0].content }}", today=datetime(2026, 1, 31))
    assert parts == ("2026", Content(0))


def test_words_that_answer_otherwise_get_a_shape_of_their_own():
    source = CHAT.replace("{{ WORDS }}", "{{ m.content }}{% if 'x' in m.content %}!{% endif %}")
    template = ChatTemplate(build_tokenizer(), source)
    plain, marked = (template.shapes.find(talk("a", text), last_only=False)[0] for text in ("b", "x"))
    assert plain is not marked
    assert template.shapes.find(talk("c", "d"), last_only=False)[0] is plain
    assert not plain.fits(["a", "x"])


@pytest.mark.parametrize(
    "source",
    [
        CHAT.replace("{{ WORDS }}", "<|im_{{ m.content }}"),  # words that begin with end|> would end the turn
        CHAT.replace("{{ WORDS }}", "{{ m.content }}end|>"),
        CHAT.replace("{{ WORDS }}", "{{ m.content }}{{ m.content }}"),
    ],
)
def test_literals_that_could_make_a_control_token_with_words_have_no_shape(source):
    template = ChatTemplate(build_tokenizer(), source)
    assert template.shapes.find(talk("a", "b"), last_only=False) is None


def test_words_that_spell_control_tokens_and_turns_with_more_than_words_have_no_shape():
    template = ChatTemplate(build_tokenizer(), CHAT.replace("{{ WORDS }}", "{{ m.content }}"))
    assert template.shapes.find(talk("a", "b"), last_only=False) is not None
    assert template.shapes.find(talk("a <|im_end|>", "b"), last_only=False) is None
    thought = Conversation((Turn("user", "a"), Turn("assistant", "b", reasoning="c")))
    assert template.shapes.find(thought, last_only=False) is None
    half = Conversation((Turn("user", "a"), Turn("assistant", "b", weight=0.5)))
    assert template.shapes.find(half, last_only=False) is None
