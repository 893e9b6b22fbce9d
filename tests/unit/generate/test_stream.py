"""Streamed text never shows half a character, and adds up to the whole."""

from burnish.generate.stream import TextStream


def test_characters_of_several_tokens_come_whole(tokenizer):
    text = "你好 🙂 ok"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces
