"""Preference, feedback, prompt and document rows to literal records, and a reason for each bad row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish.data.converters import CONVERTERS
from burnish.data.messages import JOINED_USER_TURNS
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Record, ToolCall, Turn
from burnish.data.registry import parse_entry
from burnish.data.rows import BadRow

REGISTRY = Path("data/dataset_info.json")
SYSTEM, ASK = Turn("system", "Be short."), Turn("user", "Hi")
GOOD, BAD = Turn("assistant", "Hello!"), Turn("assistant", "Go.")
JUDGED = {"prompt": "instruction", "response": "output", "kto_tag": "label"}
PAIR = {"chosen": "chosen", "rejected": "rejected"}
OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def convert(kind: str, row: Any, repairs: Counter[str] | None = None, **entry: Any) -> Record:
    entry = {"file_name": "mine.json", "ranking": kind == "preference", **entry}
    spec = parse_entry("mine", entry, REGISTRY)
    return CONVERTERS.get(f"{spec.formatting}/{kind}")(row, spec, Counter() if repairs is None else repairs)


def reason(kind: str, row: Any, **entry: Any) -> str:
    with pytest.raises(BadRow) as caught:
        convert(kind, row, **entry)
    return str(caught.value)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def said(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


class TestPreference:
    def test_alpaca_texts_with_system_and_history(self) -> None:
        columns = {"prompt": "q", "query": "i", "system": "s", "history": "h", **PAIR}
        row = {"q": "And", "i": "you?", "s": "Be short.", "h": [["Hi", "Hello!"]], "chosen": "Fine.", "rejected": "No."}
        assert convert("preference", row, columns=columns) == Preference(
            Conversation((SYSTEM, ASK, GOOD, Turn("user", "And\nyou?"))),
            (Turn("assistant", "Fine."),),
            (Turn("assistant", "No."),),
        )

    def test_alpaca_without_columns(self) -> None:
        row = {"instruction": "Hi", "input": "", "chosen": "Hello!", "rejected": "Go."}
        assert convert("preference", row) == Preference(Conversation((ASK,)), (GOOD,), (BAD,))

    def test_a_margin(self) -> None:
        columns = {"prompt": "instruction", "margin": "better_by", **PAIR}
        row = {"instruction": "Hi", "chosen": "Hello!", "rejected": "Go.", "better_by": 1}
        assert convert("preference", row, columns=columns) == Preference(Conversation((ASK,)), (GOOD,), (BAD,), 1.0)
        whole = {key: [message("user", "Hi"), message("assistant", row[key])] for key in PAIR} | {"better_by": 0.5}
        found = convert("preference", whole, formatting="openai", columns={"margin": "better_by", **PAIR})
        assert found == Preference(Conversation((ASK,)), (GOOD,), (BAD,), 0.5)
        for wrong in (-1, "much", None, True, float("nan"), float("inf")):
            assert reason("preference", row | {"better_by": wrong}, columns=columns).startswith(
                "broken margin at better_by"
            )

    def test_the_oldest_form_has_a_list_of_answers(self) -> None:
        row = {"instruction": "Hi", "input": "", "output": ["Hello!", "Go."]}
        assert convert("preference", row) == Preference(Conversation((ASK,)), (GOOD,), (BAD,))
        assert reason("preference", row | {"output": ["a"]}) == "no pair of answers at output: 1 in the list"

    def test_sharegpt_messages(self) -> None:
        columns = {"messages": "conversations", "system": "s", **PAIR}
        row = {
            "s": "Be short.",
            "conversations": [said("human", "Hi")],
            "chosen": said("gpt", "Hello!"),
            "rejected": said("gpt", "Go."),
        }
        expected = Preference(Conversation((SYSTEM, ASK)), (GOOD,), (BAD,))
        assert convert("preference", row, formatting="sharegpt", columns=columns) == expected
        row["chosen"] = [said("gpt", "Hello!")]
        row["rejected"] = "Go."
        assert convert("preference", row, formatting="sharegpt", columns=columns) == expected

    def test_an_answer_may_be_a_call_with_its_result(self) -> None:
        columns = {"messages": "messages", "tools": "tools", **PAIR}
        call = {"id": "1", "function": {"name": "rain", "arguments": "{}"}}
        row = {
            "messages": [message("user", "Hi")],
            "chosen": [
                message("assistant", "", tool_calls=[call]),
                message("tool", "3 mm", tool_call_id="1"),
                message("assistant", "Hello!"),
            ],
            "rejected": message("assistant", "Go."),
            "tools": [{"name": "rain"}],
        }
        assert convert("preference", row, formatting="openai", columns=columns) == Preference(
            Conversation((ASK,), ({"name": "rain"},)),
            (Turn("assistant", "", tool_calls=(ToolCall("rain", {}, "1"),)), Turn("tool", "3 mm", call_id="1"), GOOD),
            (BAD,),
        )

    def test_two_whole_conversations_share_the_prompt(self) -> None:
        start = [message("system", "Be short."), message("user", "Hi"), message("assistant", "Hello!")]
        row = {
            "chosen": [*start, message("user", "Bye"), message("assistant", "Bye!")],
            "rejected": [*start, message("user", "Bye"), message("assistant", "No.")],
        }
        expected = Preference(
            Conversation((SYSTEM, ASK, GOOD, Turn("user", "Bye"))),
            (Turn("assistant", "Bye!"),),
            (Turn("assistant", "No."),),
        )
        assert convert("preference", row, formatting="openai", columns=PAIR) == expected
        with_prompt = {"prompt": "Bye", **row}
        columns = {"prompt": "prompt", **PAIR}
        assert convert("preference", with_prompt, formatting="prompt_completion", columns=columns) == expected
        assert convert("preference", with_prompt, columns=columns) == expected
        with_prompt["prompt"] = "Something else"
        assert (
            reason("preference", with_prompt, columns=columns) == "the prompt is not in chosen and rejected at chosen"
        )

    def test_the_system_column_of_whole_conversations(self) -> None:
        answers = {"chosen": message("assistant", "Hello!"), "rejected": message("assistant", "Go.")}
        row = {"s": "Be short.", **{key: [message("user", "Hi"), held] for key, held in answers.items()}}
        columns = {"system": "s", **PAIR}
        expected = Preference(Conversation((SYSTEM, ASK)), (GOOD,), (BAD,))
        assert convert("preference", row, formatting="openai", columns=columns) == expected

    def test_where_conversations_part(self) -> None:
        asks, answers, more = message("user", "Hi"), message("assistant", "Hello!"), message("user", "Bye")
        longer = [asks, answers, more, message("assistant", "Bye!")]
        record = convert(
            "preference", {"chosen": longer, "rejected": [asks, answers]}, formatting="openai", columns=PAIR
        )
        assert record == Preference(
            Conversation((ASK,)), (GOOD, Turn("user", "Bye"), Turn("assistant", "Bye!")), (GOOD,)
        )
        same = convert("preference", {"chosen": longer, "rejected": longer}, formatting="openai", columns=PAIR)
        assert isinstance(same, Preference)
        assert len(same.prompt.turns) == 3

    @pytest.mark.parametrize(
        ("chosen", "rejected", "expected"),
        [
            (
                [message("user", "a"), message("assistant", "b")],
                [message("user", "c"), message("assistant", "d")],
                "chosen and rejected have no common start at rejected",
            ),
            (
                [message("system", "s"), message("user", "a"), message("assistant", "b")],
                [message("system", "s"), message("user", "c"), message("assistant", "d")],
                "chosen and rejected have no common start at rejected",
            ),
            (
                [message("user", "a"), message("assistant", "b")],
                message("assistant", "d"),
                "chosen and rejected differ in shape at rejected: one is a whole conversation",
            ),
            ([message("user", "a")], [message("user", "a")], "no answer at chosen"),
        ],
    )
    def test_bad_pairs_of_conversations(self, chosen: Any, rejected: Any, expected: str) -> None:
        row = {"chosen": chosen, "rejected": rejected}
        assert reason("preference", row, formatting="openai", columns=PAIR) == expected

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"rejected": ""}, "empty answer at rejected"),
            ({"chosen": None}, "empty answer at chosen"),
            ({"chosen": 3}, "not text at chosen: a number"),
            ({"instruction": ""}, "empty prompt at instruction"),
            ({"rejected": []}, "prompt ends without an answer at rejected"),
            ({"chosen": message("user", "a")}, "chosen and rejected differ in shape at rejected: one is a whole"),
            ({"chosen": {"content": "a"}}, "message has no role at chosen.role"),
        ],
    )
    def test_bad_alpaca_rows(self, change: Any, expected: str) -> None:
        row = {"instruction": "Hi", "input": "", "chosen": "a", "rejected": "b"} | change
        expected = expected.replace("prompt ends without an answer", "no answer")
        assert reason("preference", row).startswith(expected)

    def test_missing_columns(self) -> None:
        assert reason("preference", {"instruction": "Hi", "chosen": "a"}) == "column missing at rejected"
        assert reason("preference", {"chosen": "a", "rejected": "b"}) == "column missing at instruction"

    def test_joined_turns_are_counted_once(self) -> None:
        repairs: Counter[str] = Counter()
        start = [message("user", "Hi"), message("user", "there")]
        row = {"messages": start, "chosen": message("assistant", "a"), "rejected": message("assistant", "b")}
        convert("preference", row, repairs, formatting="openai", columns={"messages": "messages", **PAIR})
        assert repairs == {JOINED_USER_TURNS: 1}


class TestFeedback:
    def test_both_shapes(self) -> None:
        columns = {"prompt": "prompt", "response": "completion", "kto_tag": "label"}
        row = {"prompt": "Hi", "completion": "Hello!", "label": True}
        expected = Feedback(Conversation((ASK, GOOD)), True)
        assert convert("feedback", row, columns=columns) == expected
        assert convert("feedback", row, formatting="prompt_completion", columns=columns) == expected
        row = {"messages": [message("user", "Hi"), message("assistant", "Hello!")], "label": False}
        expected = Feedback(Conversation((ASK, GOOD)), False)
        columns = {"messages": "messages", "kto_tag": "label"}
        assert convert("feedback", row, formatting="sharegpt", columns=columns, tags=OPENAI_TAGS) == expected
        assert convert("feedback", row, formatting="openai", columns=columns) == expected

    @pytest.mark.parametrize(
        ("label", "expected"),
        [(True, True), (1, True), ("True", True), ("false", False), ("0", False), (0, False)],
    )
    def test_labels(self, label: Any, expected: bool) -> None:
        record = convert("feedback", {"instruction": "a", "output": "b", "label": label}, columns=JUDGED)
        assert isinstance(record, Feedback)
        assert record.desirable is expected

    @pytest.mark.parametrize(
        ("label", "shown"), [("good", "'good'"), (None, "null"), (2, "2"), (0.5, "0.5"), ([], "a list")]
    )
    def test_labels_that_are_none(self, label: Any, shown: str) -> None:
        row = {"instruction": "a", "output": "b", "label": label}
        assert reason("feedback", row, columns=JUDGED) == f"label is not true or false at label: {shown}"
        assert reason("feedback", {"instruction": "a", "output": "b"}, columns=JUDGED) == "column missing at label"


class TestPrompt:
    def test_question_and_answer(self) -> None:
        columns = {"prompt": "question", "response": "answer"}
        row = {"question": "2 + 3?", "answer": "#### 5", "level": 1}
        expected = Prompt(Conversation((Turn("user", "2 + 3?"),)), {"answer": "#### 5", "level": 1})
        assert convert("prompt", row, columns=columns) == expected

    def test_a_prompt_alone(self) -> None:
        columns = {"prompt": "prompt"}
        row = {"prompt": [message("system", "Be short."), message("user", "Hi")], "solution": {"x": [1, None]}}
        expected = Prompt(Conversation((SYSTEM, ASK)), {"solution": {"x": [1, None]}})
        assert convert("prompt", row, formatting="prompt_completion", columns=columns) == expected
        assert convert("prompt", {"prompt": "Hi"}, columns=columns) == Prompt(Conversation((ASK,)), {})

    def test_the_last_answer_of_a_conversation_is_kept_aside(self) -> None:
        talk = [said("human", "Hi"), said("gpt", "Hello!"), said("human", "Bye"), said("gpt", "Bye!")]
        row = {"conversations": talk, "id": 7}
        assert convert("prompt", row, formatting="sharegpt") == Prompt(
            Conversation((ASK, GOOD, Turn("user", "Bye"))), {"id": 7, "answer": "Bye!"}
        )
        row = {"conversations": talk[:3]}
        assert convert("prompt", row, formatting="sharegpt") == Prompt(
            Conversation((ASK, GOOD, Turn("user", "Bye"))), {}
        )

    def test_the_rows_own_answer_stays(self) -> None:
        row = {"messages": [message("user", "Hi"), message("assistant", "It is 5.")], "answer": "5"}
        expected = Prompt(Conversation((ASK,)), {"answer": "5", "response": "It is 5."})
        assert convert("prompt", row, formatting="openai") == expected

    def test_calls_of_the_last_answer(self) -> None:
        call = {"function": {"name": "rain", "arguments": '{"city": "Oslo"}'}}
        row = {"messages": [message("user", "Hi"), message("assistant", None, tool_calls=[call])]}
        calls = [{"name": "rain", "arguments": {"city": "Oslo"}}]
        assert convert("prompt", row, formatting="openai") == Prompt(
            Conversation((ASK,)), {"answer": "", "tool_calls": calls}
        )

    def test_bad_rows(self) -> None:
        row = {"messages": [message("assistant", "Hi")]}
        assert reason("prompt", row, formatting="openai") == "no turns at messages"
        assert reason("prompt", {"instruction": " "}) == "empty prompt at instruction"
        row = {"instruction": "Hi", "x": "\ud800"}
        assert reason("prompt", row) == "broken characters at reference: half of a surrogate pair"


class TestDocument:
    def test_text(self) -> None:
        assert convert("document", {"text": " Long ago.\n"}, columns={"prompt": "text"}) == Document(" Long ago.\n")
        columns = {"prompt": "title", "query": "text"}
        assert convert("document", {"title": "T", "text": "x"}, columns=columns) == Document("T\nx")

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ({"text": " \n"}, "empty text at text"),
            ({"text": None}, "empty text at text"),
            ({"text": 3}, "not text at text: a number"),
            ({}, "column missing at text"),
        ],
    )
    def test_bad_rows(self, row: Any, expected: str) -> None:
        assert reason("document", row, columns={"prompt": "text"}) == expected


class TestOtherShapes:
    def test_history_alone(self) -> None:
        columns = {"history": "turns", "system": "prefix"}
        row = {"turns": [["Hi", "Hello!"], ["Bye", "Bye!"]], "prefix": "Be short."}
        assert convert("conversation", row, columns=columns) == Conversation(
            (SYSTEM, ASK, GOOD, Turn("user", "Bye"), Turn("assistant", "Bye!"))
        )
        assert reason("conversation", {"turns": []}, columns=columns) == "no turns at turns"

    def test_messages_as_json_text_and_as_an_object_of_lists(self) -> None:
        text = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]'
        assert convert("conversation", {"messages": text}, formatting="openai") == Conversation((ASK, GOOD))
        lists = {"role": ["user", "assistant"], "content": ["Hi", "Hello!"]}
        assert convert("conversation", {"messages": lists}, formatting="openai") == Conversation((ASK, GOOD))
        assert reason("conversation", {"messages": "[x"}, formatting="openai").startswith("not a list of messages at")
        uneven = {"role": ["user"], "content": []}
        assert reason("conversation", {"messages": uneven}, formatting="openai").endswith("lists of unequal length")

    @pytest.mark.parametrize(("given", "expected"), [("a1", "a1"), (7, "7"), (None, None), ("", None)])
    def test_ids(self, given: Any, expected: str | None) -> None:
        call = {"id": given, "function": {"name": "rain", "arguments": {}}}
        turns = [message("user", "Hi"), message("assistant", "", tool_calls=[call])]
        turns += [message("tool", "3", name="rain", tool_call_id=given), message("assistant", "Hello!")]
        assert convert("conversation", {"messages": turns}, formatting="openai") == Conversation(
            (
                ASK,
                Turn("assistant", "", tool_calls=(ToolCall("rain", {}, expected),)),
                Turn("tool", "3", name="rain", call_id=expected),
                GOOD,
            )
        )
