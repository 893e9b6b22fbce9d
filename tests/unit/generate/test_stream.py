"""Streamed text never shows half a character, and adds up to the whole."""

from burnish.generate.stream import TextStream


def test_characters_of_several_tokens_come_whole(tokenizer):
    text = "你好 🙂 ok"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces


def test_a_long_text_is_decoded_in_short_parts(tokenizer, monkeypatch):
    text = "ab 你好 " * 50
    ids, longest = tokenizer(text)["input_ids"], []
    stream, decode = TextStream(tokenizer), tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda part, **how: (longest.append(len(part)), decode(part, **how))[1])
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == text
    assert stream.finish() == ""
    assert max(longest) <= 6  # two characters of three bytes


def test_a_first_space_that_a_tokenizer_drops_stays_within_a_text():
    class Dropping:
        def decode(self, ids, **_):
            return "".join(" " + "abc"[token] for token in ids).removeprefix(" ")

    stream = TextStream(Dropping())
    assert "".join(stream.push(token) for token in (0, 1, 2, 1)) + stream.finish() == "a b c b"
