"""Commands that take settings as key=value and as --key value beside options of their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand

from burnish.config.catalogue import ENVIRONMENT, OTHER_TOOLS, catalogue, find
from burnish.errors import BurnishError
from burnish.registry import did_you_mean, nearest


class SettingsCommand(TyperCommand):
    """A command that leaves the words it does not know to the settings reader, but for misspelt options of its own.

    `unlisted`: options that the command reads from those words itself. `own`: beginnings of names that only its
    options have, never settings.
    """

    allow_extra_args = True
    ignore_unknown_options = True
    unlisted: ClassVar[tuple[str, ...]] = ()
    own: ClassVar[tuple[str, ...]] = ()

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises BurnishError for an option that is misspelt."""
        known = [option for param in self.params for option in param.opts if option.startswith("--")]
        words = [word for word in ctx.args if word.partition("=")[0] not in self.unlisted]
        refuse_misspelt(words, [*known, *self.unlisted], own=self.own)
        return super().invoke(ctx)


class ChatCommand(SettingsCommand):
    """`burnish chat`, whose `--compare` may stand with and without a name."""

    unlisted = ("--compare",)


class EvalCommand(SettingsCommand):
    """`burnish eval`, with the many options of a judge."""

    own = ("--judge", "--price")


def as_typed(key: str) -> str:
    """A setting or parameter as an option is typed."""
    return "--" + key.replace("_", "-")


def refuse_misspelt(words: Sequence[str], options: Collection[str], *, own: tuple[str, ...] = ()) -> None:
    """Raise for words that were meant as options of the command; other words are settings, which are read elsewhere.

    Args:
        words: what the command line has beside the options that were known.
        options: all options, as they are typed.
        own: beginnings of names that only options have.
    """
    for word in words:
        written, equals, value = word.partition("=")
        key, name = written.lstrip("-").replace("-", "_"), as_typed(written.lstrip("-"))
        if find(key) or key in OTHER_TOOLS or key in ENVIRONMENT:
            continue
        if not written.startswith("--"):
            if equals and name in options and not written.startswith("-"):
                fix = f"write {name} {value}" if value else f"write {name} VALUE"
                raise BurnishError(f"'{written}' is an option here, not a setting", at="command line", fix=fix)
            continue
        likest = nearest(name, [*options, *map(as_typed, catalogue())])
        if name.startswith(own) or (likest and likest[0] in options):
            known = [option for option in options if option.startswith(own)] if name.startswith(own) else options
            raise BurnishError(f"there is no option {name}", at="command line", fix=did_you_mean(name, known))
