"""The conversation of `burnish chat`: messages to answers, and the commands that begin with a slash."""

from __future__ import annotations

import random
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from burnish.cli.chat_files import load_conversation, save_conversation
from burnish.cli.chat_input import Said, read_message
from burnish.cli.chat_show import Columns, is_wide, show, show_figures
from burnish.config.catalogue import catalogue
from burnish.data.records import Turn
from burnish.errors import BurnishError
from burnish.registry import did_you_mean
from burnish.runs.tables import table

if TYPE_CHECKING:
    from burnish.generate.reply import Reply, Speaker

HELP = """/system TEXT      set the system message and begin anew; without TEXT, take it away
/clear            forget the conversation
/undo             take the last question and its answer back
/retry            answer the last question again
/set              the values that steer answers; /set temperature 0.2 changes one, /set temperature default undoes it
/save FILE        add the conversation to a .jsonl file, as a row to train on
/load FILE [ROW]  go on with a conversation from a file: its last row, or the one with this number
/tokens           what the model will read, as the template writes it
/help             this list
/exit             leave (also Ctrl-D, or Ctrl-C twice)

A line that is \"\"\" begins a message of several lines and ends it. A line that begins with // is a message, not a
command. Ctrl-C stops an answer; what was said of it stays in the conversation, and /undo takes it back."""
COMMANDS = ("/system", "/clear", "/undo", "/retry", "/set", "/save", "/load", "/tokens", "/help", "/exit", "/quit")
OF_CHANCE = ("temperature", "top_p", "top_k", "seed")
"""Values that steer nothing while the likeliest token is always taken."""
_COMMAND = re.compile(r"/[A-Za-z?]+")


@dataclass
class Chat:
    """A conversation with one model, or the same one with two.

    Attributes:
        speakers: those who answer; each keeps its own answers.
        steer: `key=value` strings → the values in force by name; gives them to the speakers. Raises SettingsError.
        first: the system turn, if there is one.
        failed: whether an error was shown.
        terminal: whether someone sits there; else Ctrl-C ends it all.
    """

    speakers: Sequence[Speaker]
    steer: Callable[[Sequence[str]], dict[str, Any]]
    first: list[Turn] = field(default_factory=list)
    changes: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    terminal: bool = True

    def __post_init__(self) -> None:
        self.values = self.steer([])
        self.clear()

    # -- the loop -----------------------------------------------------------------------------------------

    def converse(self, line: Callable[[str], str], *, terminal: bool) -> None:
        """Read and answer until the user leaves. No error ends it."""
        self.terminal = terminal
        interrupted = False
        while True:
            try:
                if terminal:
                    print()
                said = read_message(line)
            except EOFError:
                if terminal:
                    print()
                return
            except KeyboardInterrupt:
                if not terminal:
                    raise
                if interrupted:
                    print()
                    return
                interrupted = True
                print("\n(Ctrl-C once more leaves, and so does Ctrl-D)")
                continue
            interrupted = False
            if not self.take(said):
                return

    def take(self, said: Said) -> bool:
        """Do what a message asks for; returns whether the conversation goes on."""
        text = said.text.strip().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            if not text:
                return True
            word = text.split(maxsplit=1)[0]
            if said.verbatim or not _COMMAND.fullmatch(word):
                self.ask(text[1:] if text.startswith("//") and not said.verbatim else text)
                return True
            return self.command(word, text[len(word) :].strip())
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            print("\n[stopped]")
        except BurnishError as error:
            self.fail(str(error))
        except Exception as error:  # noqa: BLE001 - the conversation is worth more than this one answer
            traceback.print_exc()
            kind = "" if type(error).__name__ == "OutOfMemoryError" else " This is a defect of Burnish."
            self.fail(f"This message could not be answered.{kind} The chat goes on.")
        return True

    def fail(self, text: str) -> None:
        """Show an error and go on."""
        self.failed = True
        print(text, file=sys.stderr, flush=True)

    # -- answers ------------------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Let every speaker answer; the conversations grow once all have."""
        asked = [[*speaker.turns, Turn("user", text)] for speaker in self.speakers]
        replies = self._replies(asked)
        if any(reply.text or reply.ending != "cancelled" for reply in replies):
            for speaker, turns, reply in zip(self.speakers, asked, replies, strict=True):
                speaker.turns = [*turns, reply.turn]
        if not self.terminal and any(reply.interrupted for reply in replies):
            raise KeyboardInterrupt

    def _replies(self, asked: Sequence[list[Turn]]) -> list[Reply]:
        if len(self.speakers) == 1:
            reply = self.speakers[0].begin(asked[0])
            show(reply)
            show_figures(reply)
            return [reply]
        seed = self.values.get("seed")
        seed = random.randrange(2**31) if seed is None else seed  # chance is to treat both alike
        columns = Columns([speaker.name for speaker in self.speakers]) if is_wide() else None
        replies = []
        for speaker, turns in zip(self.speakers, asked, strict=True):
            if columns is None:
                print(f"── {speaker.name}")
            reply = speaker.begin(turns, seed=seed)
            replies.append(reply)
            if columns is None:
                show(reply)
                show_figures(reply)
            else:
                columns.follow(reply)
        if columns is not None:
            columns.end()
        return replies

    # -- commands -----------------------------------------------------------------------------------------

    def command(self, word: str, rest: str) -> bool:
        """Carry a command out; returns whether the conversation goes on."""
        if word in ("/exit", "/quit", "/bye"):
            return False
        done = getattr(self, f"_{word[1:]}", None) if word in COMMANDS else None
        if done is not None:
            done(rest)
        elif word in ("/?", "/h"):
            print(HELP)
        else:
            fix = f"{did_you_mean(word, COMMANDS)} (/help lists them all; a message may begin with //)"
            raise BurnishError(f"there is no command {word}", fix=fix)
        return True

    def clear(self) -> None:
        """Forget all but the system message."""
        for speaker in self.speakers:
            speaker.turns = list(self.first)

    def _help(self, _: str) -> None:
        print(HELP)

    def _clear(self, _: str) -> None:
        self.clear()
        print("(a new conversation)")

    def _system(self, rest: str) -> None:
        self.first = [Turn("system", rest)] if rest else []
        self.clear()
        print("(a new conversation with this system message)" if rest else "(a new conversation, no system message)")

    def _undo(self, _: str) -> None:
        question = self.take_back()
        print(f"(taken back: {question[:60]})" if question else "(there is nothing to take back)")

    def _retry(self, _: str) -> None:
        question = self.take_back()
        if not question:
            print("(there is no question yet)")
            return
        if self.values.get("seed") is not None or not self.values.get("do_sample"):
            print("(nothing is left to chance here, so the answer will be the same; /set lists what to change)")
        self.ask(question)

    def take_back(self) -> str:
        """Remove the last question and what followed it from all conversations; returns the question."""
        question = ""
        for speaker in self.speakers:
            places = [place for place, turn in enumerate(speaker.turns) if turn.role == "user"]
            if places:
                question = speaker.turns[places[-1]].content
                speaker.turns = speaker.turns[: places[-1]]
        return question

    def _set(self, rest: str) -> None:
        name, _, value = (part.strip() for part in rest.replace("=", " ", 1).partition(" "))
        if not name:
            print(table([("name", "value"), *((key, shown(value)) for key, value in self.values.items())]))
            return
        if name not in self.values:
            raise BurnishError(f"there is no value '{name}'", fix=did_you_mean(name, self.values))
        if not value:
            field = catalogue()[name].field
            print(f"{name} is {shown(self.values[name])}. {field.description if field else ''}")
            return
        changes = {key: held for key, held in self.changes.items() if key != name}
        if value not in ("default", "none", "null"):
            changes[name] = value
        self.values = self.steer([f"{key}={held}" for key, held in changes.items()])
        self.changes = changes
        idle = name in OF_CHANCE and name in changes and self.values[name] != 0 and not self.values["do_sample"]
        print(f"({name} is {shown(self.values[name])}{'; no effect while do_sample is false' if idle else ''})")

    def _save(self, rest: str) -> None:
        print(save_conversation(self.speakers[-1], rest))

    def _load(self, rest: str) -> None:
        turns, told = load_conversation(rest)
        self.first = [turn for turn in turns[:1] if turn.role == "system"]
        for speaker in self.speakers:
            speaker.turns = list(turns)
        print(told)

    def _tokens(self, _: str) -> None:
        from burnish.cli.chat_tokens import show_prompt

        for speaker in self.speakers:
            show_prompt(speaker)


def shown(value: Any) -> str:
    """A value as it can be typed."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
