"""`burnish chat` at a real terminal: a pseudo-terminal with a tiny model behind it."""

from __future__ import annotations

import codecs
import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import time

import pytest

from burnish.cli.chat import run_chat
from tests import forked
from tests.conftest import build_model, build_tokenizer

UP = "\x1b[A"


class Terminal:
    """A program behind a pseudo-terminal of so many columns: type, and wait for what it shows."""

    def __init__(self, *arguments, cache, columns=80):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "BURNISH_CACHE": str(cache), "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)

        self.process = forked.start(arguments, environment, out=os.ttyname(follower), terminal=True)
        self.follower = follower  # closed before the program has opened it, the terminal would be gone
        # A read may end in the middle of a character.
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.leader, self.seen = leader, ""

    def type(self, text):
        os.write(self.leader, text.encode())

    def press_ctrl_c(self):
        # Between showing its prompt and waiting for keys readline loses a signal; people are slower than that.
        time.sleep(1.0)
        self.type("\x03")

    def wait_for(self, pattern, timeout=90.0):
        """What was shown up to and with a pattern; the rest is kept for later."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.leader], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"waited in vain for {pattern!r}; seen: {self.seen!r}"
            try:
                self.seen += self.decode(os.read(self.leader, 65536))
                self._let_go()
            except OSError:
                raise AssertionError(f"it ended before {pattern!r}; seen: {self.seen!r}") from None
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def _let_go(self):
        if self.follower >= 0:
            os.close(self.follower)
            self.follower = -1

    def end(self):
        """Wait for the end; returns the exit status."""
        try:
            self.process.join(30)
            return self.process.exitcode
        finally:
            self.process.kill()
            self._let_go()
            os.close(self.leader)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A tiny model with room for long answers, and a cache of its own."""
    folder = tmp_path_factory.mktemp("talker")
    build_model(max_position_embeddings=16384).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    return folder


def test_a_conversation_at_the_terminal(talker):
    saved = talker / "saved.jsonl"
    shell = Terminal("chat", str(talker / "model"), "do_sample=false", "max_new_tokens=5", cache=talker / "cache")
    shell.wait_for("Ctrl-D leaves")
    shell.wait_for("> ")
    # Pasted text with newlines is one message where the terminal says that it is pasted.
    shell.type("\x1b[200~first\nsecond\x1b[201~\r")
    shell.wait_for(r"\[\d tokens? · [\d.]+ tokens/s.*\]")
    shell.wait_for("> ")
    shell.type('"""\r')
    shell.wait_for("… ")
    shell.type('/exit is no command here\r"""\r')
    shell.wait_for(r"tokens/s")
    shell.wait_for("> ")
    shell.type("/tokens\r")
    shown = shell.wait_for("that the model has room for")
    assert "first\r\nsecond" in shown
    assert "/exit is no command here" in shown
    # Ctrl-C stops a long answer and not the program.
    shell.wait_for("> ")
    shell.type("/set max_new_tokens 16000\r")
    shell.wait_for("> ")
    shell.type("go\r")
    shell.wait_for("go\r\n(.|\r\n)")
    time.sleep(0.5)
    shell.type("\x03")
    shown = shell.wait_for(r"stopped\]")
    assert 0 < int(re.search(r"\[(\d+) tokens?", shown)[1]) < 16000
    shell.wait_for("> ")
    shell.type("/undo\r")
    shell.wait_for("taken back: go")
    shell.wait_for("> ")
    shell.type("/set max_new_tokens 5\r")
    shell.wait_for("max_new_tokens is 5")
    shell.wait_for("> ")
    # Ctrl-C at the prompt leaves the second time.
    shell.type("half a line")
    shell.wait_for("half a line")
    shell.press_ctrl_c()
    shell.wait_for("once more leaves")
    shell.wait_for("> ")
    shell.press_ctrl_c()
    assert shell.end() == 0
    assert not saved.exists()
    history = talker / "cache" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0, "what one says to a model is nobody else's business"
    assert "/tokens" in history.read_text()


def test_history_and_columns(talker):
    cache = talker / "other cache"
    cache.mkdir()
    (cache / "chat_history").write_text("typed last week\n")
    model = str(talker / "model")
    shell = Terminal("chat", model, "--compare", model, "max_new_tokens=5", cache=cache, columns=120)
    shell.wait_for("> ")
    shell.type(UP + "\r")
    shown = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", shell.wait_for("┘\r\n\r\n(\x1b\\[\\?2004h)?> "))
    assert "typed last week" in shown
    rows = shown[shown.rindex("┏") :].splitlines()  # the last one that was drawn
    cells = [row.split("│")[1:3] for row in rows if row.count("│") == 3]
    answers = [row for row in cells if "tokens" not in "".join(row)]
    assert any(left.strip() for left, _ in answers)
    assert all(left.strip() == right.strip() for left, right in answers), "the same model, seed and question"
    shell.type("\x04")
    assert shell.end() == 0


def test_pipes_and_one_prompt(talker, monkeypatch, capsys):
    def chat(text, prompt=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        options = {"system": None, "template": None, "served": None}
        run_chat(str(talker / "model"), prompt=prompt, overrides=["max_new_tokens=20", "seed=3"], **options)

    with pytest.raises(SystemExit) as ended:
        chat("hi\n/undo\n/nonsense\nhi\n")
    assert ended.value.code == 2, "one line could not be done"
    piped = capsys.readouterr()
    assert "there is no command /nonsense" in piped.err
    assert piped.err.count("tokens/s") == 2
    chat("hi", prompt="-")
    once = capsys.readouterr()
    assert once.err == ""
    assert once.out.strip()
    assert piped.out == f"{once.out}(taken back: hi)\n{once.out}", "nothing but answers, the same each time"
