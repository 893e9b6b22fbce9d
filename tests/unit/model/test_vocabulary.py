"""New tokens get rows that start from a mean, and files that describe them are read with care."""

import pytest
import torch

from burnish.errors import ModelError
from burnish.model.vocabulary import extend_tokenizer, grow_embeddings, new_tokens
from tests.conftest import build_model, build_tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_rows_start_from_the_mean_of_their_description(tied, tmp_path):
    (tmp_path / "tokens.yaml").write_text('"<ab>": "ab"\n"<none>": ""\n')
    tokens = new_tokens((), ("<other>",), str(tmp_path / "tokens.yaml"))
    assert tokens.special == ("<other>", "<ab>", "<none>")
    tokenizer, model = build_tokenizer(), build_model(tie_word_embeddings=tied)
    head = model.get_output_embeddings().weight.detach().clone()
    before = model.get_input_embeddings().weight.detach().clone()
    ids = extend_tokenizer(tokenizer, tokens)
    assert ids == [259, 260, 261]
    assert grow_embeddings(model, tokenizer, ids, tokens.descriptions) == ids
    assert model.config.vocab_size == 262
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
    for table, older in (
        (model.get_input_embeddings().weight, before),
        (model.get_output_embeddings().weight, before if tied else head),
    ):
        assert torch.equal(table[:259], older)
        torch.testing.assert_close(table[260], (older[a] + older[b]) / 2)
        for number in (259, 261):
            torch.testing.assert_close(table[number], older.mean(0))


def test_spare_rows_are_used_first_and_set():
    tokenizer, model = build_tokenizer(), build_model(vocab_size=264)
    ids = extend_tokenizer(tokenizer, new_tokens(("new",), (), None))
    mean = model.get_input_embeddings().weight[:259].detach().mean(0)
    assert grow_embeddings(model, tokenizer, ids, {}) == [259]
    assert model.get_input_embeddings().weight.shape[0] == 264
    torch.testing.assert_close(model.get_input_embeddings().weight[259], mean)


def test_resizing_makes_rows_for_tokens_that_had_none():
    tokenizer, model = build_tokenizer(), build_model(vocab_size=250)
    assert grow_embeddings(model, tokenizer, [], {}, resize=False) == []
    assert grow_embeddings(model, tokenizer, [], {}) == list(range(250, 259))
    assert model.get_input_embeddings().weight.shape[0] == 259


def test_known_tokens_are_not_new_and_order_does_not_matter():
    tokenizer = build_tokenizer()
    assert extend_tokenizer(tokenizer, new_tokens(("a", "x1", "x1"), ("<|im_end|>", "x1"), None)) == [259]
    assert "text_tokens" not in tokenizer.init_kwargs


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- a\n- b", "holds no mapping"),
        ("a: 1", "holds no mapping"),
        ("a: [", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used(tmp_path, text, what):
    path = tmp_path / "tokens.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=what) as caught:
        new_tokens((), (), str(path))
    assert str(path) in caught.value.at
