"""Rubrics of the user's own are read, asked, and refused where they are malformed."""

from __future__ import annotations

import json

import pytest

from burnish.errors import BurnishError
from burnish.evaluate.judging.ask import Plan, comparing_asks, grading_asks
from burnish.evaluate.judging.own_rubrics import read_rubrics
from burnish.evaluate.judging.prompts import PLAIN_SCALES, chosen_rubrics
from burnish.evaluate.judging.rows import Row

FILE = """
brevity: Is the answer as short as the question allows?
tone:
  en: {title: our tone, text: "Is it friendly and plain?", scale: [rude, cold, plain, friendly, warm and clear]}
  zh: {title: 语气, text: 语气是否友好、平实？}
polite: {en: "Does it say please?"}
"""


def written(folder, text, name="rubrics.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def row(question, answer="yes"):
    return Row("a, row 0", None, question, question, question, answer, None)


def test_a_file_of_rubrics_is_what_the_judge_reads(tmp_path):
    own = read_rubrics([written(tmp_path, FILE)])
    assert list(own) == ["brevity", "tone", "polite"]
    assert chosen_rubrics((), own) == ("brevity", "tone", "polite")
    assert chosen_rubrics(("tone", "honesty"), own) == ("tone", "honesty")
    plan = Plan(("brevity", "tone", "polite", "honesty"), own=own)
    english = {ask.rubric: ask.prompt for ask in grading_asks([row("How are you?")], "new", plan)}
    assert "Is it friendly and plain?" in english["tone"]
    assert "no other: our tone." in english["tone"]
    assert "1-2: rude\n3-4: cold\n5-6: plain\n7-8: friendly\n9-10: warm and clear" in english["tone"]
    assert f"9-10: {PLAIN_SCALES['en'][4]}" in english["brevity"]
    assert "facts" in english["honesty"]
    chinese = {ask.rubric: ask.prompt for ask in grading_asks([row("你今天好吗？")], "new", plan)}
    assert "语气是否友好、平实？" in chinese["tone"]
    assert f"9-10: {PLAIN_SCALES['zh'][4]}" in chinese["tone"]
    assert "评审" in chinese["brevity"]
    assert "Is the answer as short" in chinese["brevity"]
    assert "examiner" in chinese["polite"], "it has no Chinese words"
    pairs = comparing_asks([(row("How are you?", "a"), row("How are you?", "b"))], Plan(("tone",), own=own))
    assert all("Is it friendly and plain?" in ask.prompt for ask in pairs)


def test_json_and_folders(tmp_path):
    written(
        tmp_path,
        json.dumps({"a": {"text": "A?", "scale": {f"{n}-{n + 1}": str(n) for n in (1, 3, 5, 7, 9)}}}),
        "a.json",
    )
    written(tmp_path, "b: B?", "b.yml")
    written(tmp_path, "nothing", "notes.txt")
    own = read_rubrics([str(tmp_path)])
    assert list(own) == ["a", "b"]
    assert own["a"]["en"].scale == ("1", "3", "5", "7", "9")
    assert own["a"]["zh"].title == "a"


@pytest.mark.parametrize(
    ("text", "what", "at"),
    [
        ("a: [1, 2]", "this is no rubric", "rubrics.yaml: a"),
        ("a: {en: {txet: x}}", "a rubric has no 'txet'", "rubrics.yaml: a: en"),
        ("a: {title: x}", "'text' must be words", "rubrics.yaml: a"),
        ("a: ' '", "'text' must be words", "rubrics.yaml: a"),
        ("a: {text: x, scale: [1, 2]}", "'scale' must say in five lines", "rubrics.yaml: a"),
        ("a: {text: x, scale: {1-2: b, 3-4: c, 5-6: d, 7-8: e, 9-11: f}}", "'scale' must say", "rubrics.yaml: a"),
        ("a: {en: x, de: y}", "'de' stands beside languages", "rubrics.yaml: a"),
        ("honesty: x", "there is a rubric 'honesty' already, as one that comes with Burnish", "rubrics.yaml: honesty"),
        ("'a,b': x", "'a,b' cannot be the name", "rubrics.yaml"),
        ("a: [", "this is no YAML", "rubrics.yaml: line"),
        ("just words", "there is no rubric in this file", "rubrics.yaml"),
        ("", "there is no rubric in this file", "rubrics.yaml"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, text, what, at):
    with pytest.raises(BurnishError) as caught:
        read_rubrics([written(tmp_path, text)])
    assert what in caught.value.what
    assert at in str(caught.value.at)


def test_other_mistakes(tmp_path):
    with pytest.raises(BurnishError, match="cannot be read: No such file"):
        read_rubrics([str(tmp_path / "nowhere.yaml")])
    with pytest.raises(BurnishError, match="no rubric in this folder"):
        read_rubrics([str(tmp_path)])
    one = written(tmp_path, "tone: x\nonly: {en: x}")
    with pytest.raises(BurnishError, match=r"there is a rubric 'tone' already, in .*rubrics"):
        read_rubrics([one, written(tmp_path, "tone: y", "other.yaml")])
    with pytest.raises(BurnishError, match="this is no JSON"):
        read_rubrics([written(tmp_path, "{", "x.json")])
    own = read_rubrics([one])
    with pytest.raises(BurnishError, match="there is no rubric 'tune'") as caught:
        chosen_rubrics(("tune",), own)
    assert "did you mean 'tone'" in str(caught.value.fix)
    with pytest.raises(BurnishError, match="'only' has no words in zh"):
        chosen_rubrics((), own, "zh")
