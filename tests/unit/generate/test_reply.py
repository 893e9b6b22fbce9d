"""Answers while they are given: stopped, failing, with thoughts."""

from __future__ import annotations

import threading

import pytest

from burnish.errors import BurnishError
from burnish.generate.reply import Reply
from burnish.generate.thought import ThoughtMarker, split_thought


def said(*pieces, ending="stop"):
    def write(put):
        for piece in pieces:
            put(piece, 1)
        return ending

    return write


def test_a_reply_gives_its_pieces_and_counts_them():
    reply = Reply(said("Hel", "", "lo"))
    assert list(reply) == ["Hel", "lo"]
    assert (reply.text, reply.tokens, reply.ending) == ("Hello", 3, "stop")
    assert reply.tokens_per_second > 0
    assert reply.turn.weight == 1.0


def test_a_reply_that_nobody_listens_to_any_more_stops_between_two_tokens():
    written, goes_on = [], threading.Event()

    def write(put):
        for number in range(1000):
            written.append(number)
            put(str(number), 1)
            if number:
                goes_on.wait(5)
        return "stop"

    reply = Reply(write)
    assert next(reply) == "0"
    goes_on.set()
    reply.close()
    count = len(written)
    assert reply.ending == "cancelled"
    assert reply.turn.content == "0"
    assert reply.turn.weight == 0.0, "nobody should learn to stop where the user pressed Ctrl-C"
    assert not reply._thread.is_alive()
    assert len(written) == count < 1000
    assert list(reply) == []


def test_an_error_of_the_writer_is_raised_to_the_listener():
    def write(put):
        put("a", 1)
        raise BurnishError("too long")

    reply = Reply(write)
    assert next(reply) == "a"
    with pytest.raises(BurnishError, match="too long"):
        next(reply)
    reply.close()


def test_an_answer_that_was_cut_off_weighs_nothing():
    reply = Reply(said("half", ending="length"))
    assert "".join(reply) == "half"
    assert reply.turn.weight == 0.0


@pytest.mark.parametrize(
    ("text", "thinking", "found"),
    [
        ("plain", False, (None, "plain")),
        ("<think>\nhm\n</think>\n\nyes", False, ("hm", "yes")),
        ("<think>\n\n</think>\n\nyes", False, (None, "yes")),
        ("hm\n</think>\nyes", True, ("hm", "yes")),
        ("<think>\nendless", False, ("endless", "")),
        ("so <think> is a tag", False, (None, "so <think> is a tag")),
    ],
)
def test_thoughts_are_cut_from_answers(text, thinking, found):
    assert split_thought(text, thinking) == found


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_thoughts_are_told_apart_however_the_text_comes(size):
    text = "<think>a < b</think>c </ d"
    marker = ThoughtMarker()
    found = [part for at in range(0, len(text), size) for part in marker.push(text[at : at + size])] + marker.finish()
    assert "".join(piece for piece, _ in found) == text
    assert "".join(piece for piece, thought in found if thought) == "<think>a < b</think>"
