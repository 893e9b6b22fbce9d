"""Each shipped template renders the same eight conversations as it did when a person last looked.

The files in `rendered/` show the text with what is trained between ⟦ and ⟧. A new template needs no test of its own:
`python -m pytest tests/golden --update-golden` writes its file; read it before you commit it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.data.records import Conversation, Turn
from burnish.template import label_example, load_template, template_names
from burnish.template.chat import ChatTemplate

RENDERED = Path(__file__).parent / "rendered"


def talk(*texts: str, system: str | None = None) -> Conversation:
    turns = [Turn(role, text) for role, text in zip(("user", "assistant") * len(texts), texts, strict=False)]
    return Conversation(tuple([Turn("system", system)] if system else []) + tuple(turns))


CONVERSATIONS = {
    "one turn": talk("What is the capital of Peru?", "Lima."),
    "two turns": talk("Hi", "Hello!", "How are you?", "Fine, thanks."),
    "system": talk("2 + 2?", "4", system="Answer with a number."),
    "system, three turns": talk("a", "b", "c", "d", "e", "f", system="Spell."),
    "Chinese and an emoji": talk("用一句话介绍长城。", "长城是中国古代的防御工程。🏯"),
    "spaces and line ends": talk("  two lines\nhere  ", "\n  kept as it is \n"),
    "code": talk("Print 1 in Python", "```python\nprint(1)\n```"),
    "an empty question": talk("", "You said nothing."),
}


def marked(template: ChatTemplate, conversation: Conversation) -> str:
    """The text with ⟦ ⟧ around what is trained."""
    pieces = template.pieces(conversation)
    example = label_example(pieces)
    assert [token for piece in pieces for token in piece.ids] == example.input_ids
    text = ""
    start = 0
    for piece in pieces:
        shown = template.decode(piece.ids, special=True)
        labels = example.labels[start : start + len(piece.ids)]
        trained = all(label != -100 for label in labels) if labels else False
        assert trained or all(label == -100 for label in labels)
        text += f"⟦{shown}⟧" if trained else shown
        start += len(piece.ids)
    return text


@pytest.mark.parametrize("name", ["tokenizer", *template_names()])
def test_rendering(tokenizer, name, request):
    template = load_template(tokenizer, name)
    parts = [f"=== {title}\n{marked(template, each)}\n" for title, each in CONVERSATIONS.items()]
    path = RENDERED / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.write_text("".join(parts), encoding="utf-8", newline="\n")
    assert path.is_file(), f"no golden file for template {name}: run pytest tests/golden --update-golden and read it"
    assert path.read_text(encoding="utf-8") == "".join(parts)
