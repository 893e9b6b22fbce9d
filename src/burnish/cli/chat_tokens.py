"""`/tokens`: the next prompt of a conversation, as the template writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from burnish import log
from burnish.data.records import Conversation, Turn
from burnish.errors import BurnishError
from burnish.generate.chat import ChatModel

if TYPE_CHECKING:
    from burnish.generate.reply import Speaker

_NEXT = "…"


def show_prompt(speaker: Speaker) -> None:
    """Print what the model would read if the next message were an ellipsis, and how many tokens that is."""
    if not isinstance(speaker, ChatModel):
        raise BurnishError("only the server knows how it renders a conversation", at=speaker.name)
    from rich.text import Text

    template = speaker.template
    conversation = Conversation((*speaker.turns, Turn("user", _NEXT)))
    text = template.text(conversation, generate=True)
    coloured, at = Text(), 0
    for match in template.encoder.controls_in(text):
        coloured.append(text[at : match.start()])
        coloured.append(match[0], style="cyan")
        at = match.end()
    coloured.append(text[at:])
    log.console().print(coloured)
    room = getattr(speaker.model.config.get_text_config(), "max_position_embeddings", None)
    of = f" of {room:,} that the model has room for" if room else ""
    count = len(template.prompt_ids(conversation))
    print(f"({count:,} tokens{of}; {_NEXT} stands for your next message; template {template.name})")
