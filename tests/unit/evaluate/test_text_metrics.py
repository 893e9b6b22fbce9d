"""BLEU, chrF, ROUGE and exact match: known values, Chinese, thoughts."""

from __future__ import annotations

import pytest

from burnish.evaluate.text_metrics import RougeTokenizer, bleu_tokenizer, similarities, text_scores


def test_equal_texts_are_perfect():
    texts = ["The cat sat on the mat today.", "A dog barked at the tree."]
    found = text_scores(texts, texts)
    assert (found["bleu"], found["chrf"], found["rougeL"], found["exact_match"]) == (100, 100, 100, 100)
    assert found["pairs"] == found["exact_matches"] == 2


def test_values_by_hand():
    # Of the 4 predicted words 3 are right: precision and recall 3/4. Of the bigrams 1 of 3: "the cat".
    found = text_scores(["the cat lay down"], ["the cat sat down"])
    assert found["rouge1"] == pytest.approx(75)
    assert found["rouge2"] == pytest.approx(100 / 3, abs=1e-3)
    assert found["rougeL"] == pytest.approx(75)
    # Precisions 3/4, 1/3, then none of 2 and of 1: smoothed to 1/(2·2) and 1/(4·1); no brevity penalty.
    assert found["bleu"] == pytest.approx(100 * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25, abs=0.01)
    assert found["exact_match"] == 0


def test_single_pairs():
    assert similarities(["a b c", " ?! ", "<think>no</think>x"], ["a d c", "?!", "y"]) == [
        (False, pytest.approx(2 / 3)),  # two of three words in order, both ways
        (True, 1.0),  # no word at all, and equal
        (False, 0.0),
    ]


def test_chinese_is_cut_into_characters():
    assert bleu_tokenizer(["今天天气很好。", "我们去公园吧。", "Hello"]) == "zh"
    assert bleu_tokenizer(["Hello, how are you?", "你好"]) == "13a"
    assert bleu_tokenizer(["今日はとても良い天気です。"]) == "char"
    found = text_scores(["今天天气很好"], ["今天天气不好"])
    assert found["rouge1"] == pytest.approx(100 * 5 / 6, abs=1e-3)
    assert found["bleu"] > 20, "as one word it would share nothing with the reference"
    assert RougeTokenizer().tokenize("GPT-4很好 สวย 안녕") == ["gpt", "4", "很", "好", "ส", "ว", "ย", "안", "녕"]


def test_thoughts_do_not_count():
    found = text_scores(["<think>\nlong talk\n</think>\n\n42", "hm</think>7"], ["42", "<think>\nx\n</think>\n\n7"])
    assert found["exact_match"] == 100


def test_nothing_to_compare():
    assert text_scores([], []) == {"pairs": 0}


def test_short_predictions_have_no_bleu():
    found = text_scores(["RED SUN", "BLUE CAT"], ["RED SUN", "BLUE CAT"])
    assert found["bleu"] is None
    assert found["exact_match"] == 100
    assert text_scores(["RED SUN", "a b c d"], ["RED SUN", "a b c d"])["bleu"] == 100
