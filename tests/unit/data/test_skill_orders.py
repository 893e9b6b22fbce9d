"""The quickstart's data: the same for a seed, honest about what is held out, and scored strictly."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from burnish.data.skills import orders
from burnish.data.skills.orders import KEYS, SCHEMA, SIZES, TEST, TRAIN, Lexicon, generate, plural, score

ORDER = {"quantity": 2, "size": None, "item": "latte", "name": "Anna"}
REFERENCE = json.dumps(ORDER)


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", re.sub(r"\{\w+\}", " ", text).lower()))


def question(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["content"])


def order(row: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(row["messages"][2]["content"])
    return answer


def every_word(lexicon: Lexicon) -> set[str]:
    """Every word that a sentence of this lexicon can hold."""
    texts = [*lexicon.patterns, *lexicon.openers, *lexicon.closers, *lexicon.items, *lexicon.names, *SIZES]
    texts += [plural(item) for item in lexicon.items]
    texts += [phrase for phrase, _ in lexicon.counts + lexicon.numbers]
    return set().union(*(words(text) for text in texts))


def runs_of_words(pattern: str, length: int) -> set[tuple[str, ...]]:
    """Runs of neighbouring words and slots, brackets opened and closed."""
    versions = (re.sub(r"[\[\]]", "", pattern), re.sub(r"\[.*?\]", "", pattern))
    runs = set()
    for version in versions:
        parts = re.findall(r"\{\w+\}|[\w']+", version.lower())
        runs |= {tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)}
    return runs


# what a row is


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_seed_gives_the_same_rows_and_another_seed_others(split: orders.Split) -> None:
    assert generate(split, 60, 7) == generate(split, 60, 7)
    assert generate(split, 60, 7) != generate(split, 60, 8)


def test_more_rows_begin_with_the_same_rows() -> None:
    assert generate("train", 80, 1)[:30] == generate("train", 30, 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reference_obeys_the_instructions(split: orders.Split) -> None:
    lexicon = orders.LEXICONS[split]
    rows = generate(split, 400, 3)
    assert len(rows) == 400
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SCHEMA
        answer = order(row)
        assert tuple(answer) == KEYS
        assert type(answer["quantity"]) is int
        assert answer["quantity"] > 0
        assert answer["size"] in (*SIZES, None)
        assert answer["item"] in {*lexicon.items, *map(plural, lexicon.items)}
        assert answer["item"] == answer["item"].lower()
        assert answer["name"] is None or answer["name"] in lexicon.names


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_sentence_says_what_the_answer_says(split: orders.Split) -> None:
    lexicon = orders.LEXICONS[split]
    phrases: dict[int, set[str]] = {}
    for phrase, quantity in lexicon.counts + lexicon.numbers:
        phrases.setdefault(quantity, set()).add("an?" if phrase == "a" else re.escape(phrase))
    for row in generate(split, 400, 4):
        text, answer = question(row), order(row)
        assert "{" not in text
        assert "[" not in text
        assert "None" not in text
        named = {name for name in lexicon.names if re.search(rf"\b{name}\b", text)}
        assert named == ({answer["name"]} if answer["name"] else set()), text
        sized = {size for size in SIZES if size in words(text)}
        assert sized == ({answer["size"]} if answer["size"] else set()), text
        assert re.search(rf"\b{answer['item']}\b", text, re.IGNORECASE), text
        said = "|".join(phrases[answer["quantity"]])
        assert re.search(rf"\b({said})\b", text, re.IGNORECASE), text


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_question_stands_twice_and_each_pattern_is_used(split: orders.Split) -> None:
    patterns = len(orders.LEXICONS[split].patterns)
    questions = [question(row) for row in generate(split, 10 * patterns, 5)]
    assert len(set(questions)) == len(questions)


def test_an_article_fits_its_noun() -> None:
    text = " ".join(question(row) for row in generate("train", 1000, 0))
    assert re.search(r"\b[Aa]n [aeiou]", text)
    assert not re.search(r"\b[Aa] [aeiou]", text)
    assert not re.search(r"\b[Aa]n [^aeiou]", text)


@pytest.mark.parametrize(
    ("item", "expected"),
    [("bagel", "bagels"), ("sandwich", "sandwiches"), ("pastry", "pastries"), ("toy", "toys")],
)
def test_plural(item: str, expected: str) -> None:
    assert plural(item) == expected


def test_the_plural_never_equals_the_singular_or_another_item() -> None:
    for lexicon in (TRAIN, TEST):
        forms = [*lexicon.items, *(plural(item) for item in lexicon.items)]
        assert len(set(forms)) == len(forms)


def test_both_splits_vary_what_is_said() -> None:
    for split in ("train", "test"):
        answers = [order(row) for row in generate(split, 200, 0)]  # type: ignore[arg-type]
        assert {answer["size"] for answer in answers} == {*SIZES, None}
        assert 0.2 < sum(answer["name"] is None for answer in answers) / len(answers) < 0.8
        assert len({answer["quantity"] for answer in answers}) >= 8


# what is held out


def test_the_patterns_are_many_and_disjoint() -> None:
    assert len(set(TRAIN.patterns)) == len(TRAIN.patterns) >= 20
    assert len(set(TEST.patterns)) == len(TEST.patterns) >= 10
    assert not set(TRAIN.patterns) & set(TEST.patterns)


def test_no_run_of_four_words_of_a_held_out_pattern_stands_in_a_training_pattern() -> None:
    trained = set().union(*(runs_of_words(pattern, 4) for pattern in TRAIN.patterns))
    held_out = set().union(*(runs_of_words(pattern, 4) for pattern in TEST.patterns))
    assert held_out
    assert not trained & held_out


def test_each_held_out_pattern_has_a_word_of_its_own() -> None:
    trained = every_word(TRAIN)
    assert [pattern for pattern in TEST.patterns if words(pattern) <= trained] == []


@pytest.mark.parametrize("field", ["items", "names"])
def test_no_word_of_a_held_out_item_or_name_can_stand_in_a_training_sentence(field: str) -> None:
    trained = every_word(TRAIN)
    held_out = set().union(*(words(text) | words(plural(text)) for text in getattr(TEST, field)))
    assert held_out
    assert not trained & held_out


def test_quantities_and_greetings_are_worded_differently() -> None:
    for field in ("counts", "numbers"):
        trained = {phrase for phrase, _ in getattr(TRAIN, field)} - {"a"}
        held_out = {phrase for phrase, _ in getattr(TEST, field)} - {"a"}
        assert held_out
        assert not trained & held_out
    assert not {*TRAIN.openers, *TRAIN.closers} & {*TEST.openers, *TEST.closers}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_held_out_sentence_is_new_in_words_and_in_answer(seed: int) -> None:
    train, test = generate("train", 1000, seed), generate("test", 200, seed)
    trained_words = set().union(*(words(question(row)) for row in train))
    trained_answers = [order(row) for row in train]
    for row in test:
        assert words(question(row)) - trained_words, question(row)
        assert order(row) not in trained_answers


# errors


def test_an_unknown_split_or_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="train, test"):
        generate("dev", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        generate("train", -1, 0)
    assert generate("train", 0, 0) == []


# the score


@pytest.mark.parametrize(
    "prediction",
    [
        REFERENCE,
        f"  \n{REFERENCE}\n ",
        f"```json\n{REFERENCE}\n```",
        f"```\n{REFERENCE}\n```\n",
        json.dumps(ORDER, indent=2),
        json.dumps(dict(reversed(list(ORDER.items())))),
        json.dumps(ORDER, separators=(",", ":")),
    ],
    ids=["same", "space", "json fence", "bare fence", "indented", "other key order", "compact"],
)
def test_the_same_value_is_right(prediction: str) -> None:
    assert score(prediction, REFERENCE)


@pytest.mark.parametrize(
    "prediction",
    [
        "",
        "null",
        f"Here is the order: {REFERENCE}",
        f"{REFERENCE} Enjoy!",
        f"```json\n{REFERENCE}\n``` Enjoy!",
        f"{REFERENCE}\n{REFERENCE}",
        REFERENCE[:-1],
        REFERENCE.replace('"', "'"),
        f"[{REFERENCE}]",
        json.dumps({**ORDER, "quantity": "2"}),
        json.dumps({**ORDER, "quantity": 2.0}),
        json.dumps({**ORDER, "quantity": 3}),
        json.dumps({**ORDER, "item": "Latte"}),
        json.dumps({**ORDER, "item": ["latte"]}),
        json.dumps({**ORDER, "size": "null"}),
        json.dumps({**ORDER, "note": None}),
        json.dumps({key: value for key, value in ORDER.items() if key != "size"}),
        REFERENCE[:-1] + ', "quantity": 2}',
        "[" * 100_000,
    ],
)
def test_anything_else_is_wrong(prediction: str) -> None:
    assert not score(prediction, REFERENCE)


def test_types_are_strict_all_the_way_down() -> None:
    assert not score('{"a": true}', '{"a": 1}')
    assert not score('{"a": ["b"]}', '{"a": "b"}')
    assert not score('{"a": ["b", "c"]}', '{"a": ["c", "b"]}')
    assert not score('{"a": ["b"]}', '{"a": ["b", "b"]}')
    assert not score('{"a": [1]}', '{"a": ["1"]}')
    assert score('{"a": [1, {"b": null}]}', '{"a": [1, {"b": null}]}')


def test_a_reference_that_is_not_json_is_our_mistake() -> None:
    with pytest.raises(ValueError):
        score("{}", "no json")


# the files


def test_files_have_the_same_bytes_each_time_and_hold_the_rows(tmp_path: Any) -> None:
    train, test = orders.write_files(tmp_path / "a b", 2, 12, 5)
    again = orders.write_files(tmp_path / "第二", 2, 12, 5)
    assert (train.name, test.name) == ("train.jsonl", "test.jsonl")
    assert [train.read_bytes(), test.read_bytes()] == [path.read_bytes() for path in again]
    assert b"\r" not in train.read_bytes()
    assert [json.loads(line) for line in train.read_text("utf-8").splitlines()] == generate("train", 12, 2)
    assert [json.loads(line) for line in test.read_text("utf-8").splitlines()] == generate("test", 5, 2)
