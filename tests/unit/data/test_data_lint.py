"""Each rule of lint: a row that trips it and one that must not, in English and Chinese."""

from __future__ import annotations

import pytest

from burnish.data.iterate import NamedBadRow
from burnish.data.lint import Linter, bad_row_finding, choose_rules, prompt_hash
from burnish.data.lint_rules import RULES, around, why_unfinished
from burnish.data.mojibake import find_garbled
from burnish.data.near import NearDuplicates
from burnish.data.records import Conversation, Document, Feedback, Preference, Sample, Turn
from burnish.data.views import view
from burnish.errors import BurnishError

PROSE = "The sea is large and deep. It covers most of the world. Many animals live in it, and people fish there. "
PROSE_ZH = "大海又大又深。它覆盖了世界的大部分。许多动物生活在那里，人们也在那里捕鱼。"


def talk(prompt="What is the sea?", answer="Water.", *more, system=None):
    turns = [Turn("system", system)] if system else []
    turns += [Turn(("user", "assistant")[at % 2], text) for at, text in enumerate((prompt, answer, *more))]
    return Conversation(tuple(turns))


def pair(chosen, rejected, prompt="q"):
    prompt = Conversation((Turn("user", prompt),))
    return Preference(prompt, (Turn("assistant", chosen),), (Turn("assistant", rejected),))


def lint(*records, rules=tuple(RULES), held_out=()):
    """(rule, row) of every finding."""
    linter = Linter(rules, held_out)
    found = []
    for row, record in enumerate(records):
        found += linter.add(Sample(record, "set", row, "set.jsonl"))
    return [(one.rule, one.row) for one in (*found, *linter.finish())]


TRIPS = {
    "control-token": [
        talk(answer="Water.<|im_end|>"),
        talk("水是什么？<|eot_id|>", "水。"),
        talk(answer="[INST] more [/INST]"),
        talk(answer="Water.</s>"),
        talk(answer="<s> Water."),
        talk(answer="水。<｜end▁of▁sentence｜>"),
        Document("one<|endoftext|>two"),
        pair("fine", "Water.<end_of_turn>"),
    ],
    "mojibake": [
        talk(answer="A cafÃ© by the sea."),
        talk(answer="Donâ€™t go."),
        talk(answer="It is 20Â°C"),
        talk("翻译", "锟斤拷烫烫烫"),
        talk("翻译", "答案是浣犲ソ涓栫晫。"),
        Document("lost \ufffd here"),
    ],
    "unfinished": [
        talk(answer=PROSE * 2 + "This is why it is so important to"),
        talk(answer=PROSE * 2 + "They eat fish, crabs,"),
        talk("说说大海", PROSE_ZH * 3 + "因此保护大海对于我们每一个人来说都是非常的"),
        talk("说说大海", PROSE_ZH * 3 + "他们吃鱼，"),
        talk(answer="```python\nprint(1"),
        talk(answer="```python\nprint(1)\n```\n" + PROSE * 2 + "This is why it is so important to"),
        talk(answer=PROSE * 2 + "\n1. Fish\n2. " + PROSE + "They also need to"),
        talk("说说大海", PROSE_ZH * 3 + "\n1. 鱼：很多。\n2. 植物："),
    ],
    "other-turn": [
        talk(answer="Water.\nUser: and the sky?"),
        talk(answer="Water.\n\n### Instruction:\nMore"),
        talk("水是什么？", "水。\n用户：天空呢？"),
    ],
    "placeholder": [talk(answer="N/A"), talk("Name a sea.\n<noinput>", "The Baltic."), pair("fine", "TODO")],
    "refusal": [
        talk(answer="As an AI language model, I cannot see the sea."),
        talk(answer="I'm sorry, but I can't help with that."),
        talk("看看大海", "作为一个人工智能语言模型，我无法看到大海。"),
        talk("看看大海", "抱歉，我不能回答。"),
        talk("看看大海", "我是一个人工智能，所以我没有眼睛。"),
    ],
    "contradiction": [pair("The same.", "The same. ")],
}
PASSES = {
    "control-token": [
        talk(answer="In HTML, <s>old</s> is struck through, and <b>new</b> is bold."),
        talk(answer="f <| x |> g, a[0] < b[1], 5 <|> 6"),
        talk("数组", "写 a[0] 和 <标题>。"),
    ],
    "mojibake": [
        talk(answer="Café, naïve, São Paulo, Ångström, «TELEFONÓ», 20 °C, Zürich, “quotes”, ÀÉÎ."),
        talk("翻译", "鐨勬字很少见，但是浣熊和锛子是真的词。"),
        talk("繁體", "鎖鏈與鐘，鍵盤與鏡子，銀行與錢。"),
        talk("翻訳", "日本語のテキスト。ウィキペディア。"),
        Document("Москва, Αθήνα, العربية, हिन्दी"),
    ],
    "unfinished": [
        talk(answer="Paris"),
        talk(answer=PROSE * 3),
        talk(answer=PROSE * 3 + "The answer is 42"),
        talk(answer=PROSE * 3 + "\n- fish\n- crabs and other small animals of the sea floor"),
        talk(answer=PROSE * 3 + "\n```python\nprint(1)\n```"),
        talk(answer=PROSE * 3 + "\n\nKind regards,\nAnna"),
        talk(answer="\n".join(["The sea is deep, and dark, and wide.", "The wind goes up. The wind goes down"] * 8)),
        talk(answer=PROSE * 3 + "\nSee https://example.org/a/long/page"),
        talk("说说大海", PROSE_ZH * 3),
        talk("说说大海", "北京"),
        talk("说说大海", PROSE_ZH * 3 + "\n1. 鱼\n2. 生活在海底的许多其他小动物"),
    ],
    "other-turn": [
        talk("Write a dialogue with a bot.", "Bot: hi\nUser: hello"),
        talk(answer="The user: a person who uses it."),
        talk("写一段对话", "机器人：你好\n用户：你好"),
    ],
    "placeholder": [talk(answer="None of them is a sea."), talk("没有输入", "无法回答。")],
    "refusal": [
        talk(answer="As an AI assistant, I would be glad to help."),
        talk(answer="Sorry to hear that! Water is good."),
        talk("你是谁", "您好！我是一个人工智能助手，很高兴见到您。"),
    ],
    "contradiction": [pair("One.", "Two.")],
}


@pytest.mark.parametrize(("rule", "record"), [(rule, record) for rule, held in TRIPS.items() for record in held])
def test_a_row_that_trips(rule, record):
    assert (rule, 0) in lint(record)


@pytest.mark.parametrize(("rule", "record"), [(rule, record) for rule, held in PASSES.items() for record in held])
def test_a_row_that_does_not(rule, record):
    assert rule not in [name for name, _ in lint(record)]


def test_duplicates_whatever_case_and_spaces():
    rows = [talk("What is it?", "Water."), talk("what  is it?", "water. "), talk("What is it?", "Salt.")]
    assert lint(*rows) == [("duplicate", 1), ("same-prompt", 2)]
    assert lint(talk("水是什么？", "水。"), talk("水是什么？", "水。")) == [("duplicate", 1)]
    assert lint(talk("水是什么？", "水。"), talk("火是什么？", "水。")) == []
    assert lint(Document("a text"), Document("A  text"), Document("b")) == [("duplicate", 1)]


LONG = (
    "The tide comes in twice a day because the moon pulls at the water of the sea and the earth turns below it, "
    "which is also why the times of high water move on by fifty minutes from one day to the next"
)


def test_rows_that_are_nearly_the_same():
    nearly = talk(answer=f"{LONG}, more or less.")
    assert lint(talk(answer=f"{LONG}."), nearly, talk("Why?", "So."), rules=["near-duplicate"]) == [
        ("near-duplicate", 1)
    ]
    assert lint(talk(answer=f"{LONG}."), talk(answer=f"{LONG}."), rules=["duplicate", "near-duplicate"]) == [
        ("duplicate", 1)
    ]
    half = talk(
        answer=f"{LONG[:110]} and something else that has little to do with what stood there before, as one sees"
    )
    assert lint(talk(answer=f"{LONG}."), half, rules=["near-duplicate"]) == []
    system = [talk(f"{n} + {n}?", f"It is {2 * n}.", system=LONG) for n in range(5)]
    assert lint(*system, rules=["near-duplicate"]) == []
    zh = PROSE_ZH + "所以每一个人都应该爱护大海。"
    assert lint(Document(zh * 2), Document(zh * 2 + "对"), rules=["near-duplicate"]) == [("near-duplicate", 1)]


def test_a_near_duplicate_names_the_first_row_and_its_file():
    linter = Linter(["near-duplicate"])
    linter.add(Sample(talk(answer=LONG), "a", 7, "one/a.jsonl"))
    linter.add(Sample(talk(answer=f"{LONG} indeed"), "b", 3, "two/b.jsonl"))
    (found,) = linter.finish()
    assert (found.dataset, found.file, found.row) == ("b", "two/b.jsonl", 3)
    assert found.what.endswith("% the same as row 7 of a.jsonl")


def test_rows_beyond_the_most_are_said_not_to_be_compared():
    near = NearDuplicates(most_rows=2)
    for number, text in enumerate((LONG, PROSE * 2 + PROSE_ZH, LONG)):
        near.add(number, text)
    assert (list(near.pairs()), near.left_out) == ([], 1)


def test_system_and_earlier_turns_make_a_prompt_another():
    assert lint(talk(system="Be brief."), talk(system="Be long."), talk("hi", "ho", "What is the sea?", "Water.")) == []


def test_a_duplicate_names_the_first_row_and_its_file():
    linter = Linter()
    linter.add(Sample(talk(), "a", 7, "one/a.jsonl"))
    (found,) = linter.add(Sample(talk(), "b", 3, "two/b.jsonl"))
    assert found.what == "the same as row 7 of a.jsonl"
    assert found.as_dict()["level"] == "error"
    assert found.excerpt == "What is the sea?"


def test_judgements_that_contradict():
    good, bad = Feedback(talk(), True), Feedback(talk(), False)
    assert lint(good, bad) == [("contradiction", 1)]
    assert lint(good, good) == [("duplicate", 1)]
    assert lint(pair("a", "b"), pair("b", "a")) == [("contradiction", 1)]
    assert lint(pair("a", "b"), pair("a", "c")) == []


def test_overlap_with_the_evaluation_data():
    held_out = {prompt_hash(view(talk("What IS the sea?", "Another answer.")))}
    assert lint(talk(), talk("火是什么？", "火。"), held_out=held_out) == [("overlap", 0)]


def test_prompts_that_begin_alike():
    alike = [talk(f"Please tell me about {n}", f"It is {n}.") for n in range(40)]
    assert lint(*alike, *[talk(f"{n} {n + 1} {n + 2}", f"A {n}.") for n in range(60)]) == [("same-opening", None)]
    assert lint(*alike[:20], *[talk(f"{n} {n + 1} {n + 2}", f"A {n}.") for n in range(80)]) == []
    assert lint(*alike[:30]) == []  # too few to tell
    zh = [talk(f"请你告诉我关于{n}的事", f"是{n}。") for n in range(60)]
    assert lint(*zh) == [("same-opening", None)]


def test_answers_far_longer_than_the_others():
    rows = [talk(f"q{n}", f"Water {n}.") for n in range(20)]
    assert lint(*rows, talk("long", "word " * 500 + ".")) == [("length", 20)]
    assert lint(*rows, talk("long", "word " * 300 + ".")) == []  # 1,500 characters are not long


def test_preferences_out_of_balance():
    assert lint(*[pair("long " * 20 + str(n), f"short {n}", f"q{n}") for n in range(60)]) == [("pair-length", None)]
    assert lint(*[pair(f"short {n}", "long " * 20 + str(n), f"q{n}") for n in range(60)]) == [("pair-length", None)]
    assert lint(*[pair(f"same a {n}", f"same b {n}", f"q{n}") for n in range(60)]) == []


def test_bad_rows_of_the_loader():
    for reason, rule in (
        ("empty answer at output", "empty-answer"),
        ("unknown role at messages[0].role", "wrong-role"),
        ("two assistant turns in a row", "wrong-role"),
        ("row is not an object", "bad-row"),
    ):
        found = bad_row_finding(NamedBadRow("set", "set.jsonl", 4, reason))
        assert (found.rule, found.row, found.what, found.level) == (rule, 4, reason, "error")


def test_choosing_rules():
    assert choose_rules(["mojibake"]) == {"mojibake"}
    assert choose_rules(skip=["mojibake"]) == frozenset(RULES) - {"mojibake"}
    with pytest.raises(BurnishError, match="did you mean 'duplicate'"):
        choose_rules(skip=["duplicates"])
    assert lint(talk(answer="N/A<|im_end|>"), talk(answer="N/A<|im_end|>"), rules=["duplicate"]) == [("duplicate", 1)]


@pytest.mark.parametrize(
    ("garbled", "meant"),
    [
        ("Ã©", "é"),
        ("â€™", "’"),
        ("â\x80\x99", "’"),
        ("Ã¼", "ü"),
        ("ä½\xa0å¥½", "你好"),
        ("浣犲ソ涓栫晫", "你好世界"),
        ("鈥檚", "’s"),
    ],
)
def test_what_garbled_text_was(garbled, meant):
    found = find_garbled(f"so {garbled} it is")
    assert found is not None
    assert found.meant == meant


def test_an_excerpt_is_short_and_in_one_line():
    assert around("a\nb") == "a⏎b"
    assert len(around("x" * 500, 250)) == 66
    assert around("x" * 500, 500).startswith("…")
    assert why_unfinished(PROSE * 2 + "so it") == "the answer ends with 't', in mid-sentence"
