"""alpaca and prompt_completion: rows to literal records, and a reason for each bad row."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.data.converters import CONVERTERS
from burnish.data.records import Conversation, Record, Turn
from burnish.data.registry import parse_entry
from burnish.data.rows import BadRow

REGISTRY = Path("data/dataset_info.json")
SYSTEM = Turn("system", "Be short.")


def convert(row: Any, repairs: Counter[str] | None = None, **entry: Any) -> Record:
    spec = parse_entry("mine", {"file_name": "mine.json", **entry}, REGISTRY)
    return CONVERTERS.get(f"{spec.formatting}/conversation")(row, spec, Counter() if repairs is None else repairs)


def said(user: str, assistant: str) -> tuple[Turn, Turn]:
    return Turn("user", user), Turn("assistant", assistant)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def reason(row: Any, **entry: Any) -> str:
    with pytest.raises(BadRow) as caught:
        convert(row, **entry)
    return str(caught.value)


class TestAlpaca:
    def test_prompt_and_query_are_joined_with_one_newline(self) -> None:
        row = {"instruction": "Add.", "input": "2 + 3", "output": "5"}
        assert convert(row) == Conversation(said("Add.\n2 + 3", "5"))

    def test_an_empty_query_adds_nothing(self) -> None:
        assert convert({"instruction": "Hi", "input": "", "output": "Hello"}) == Conversation(said("Hi", "Hello"))
        assert convert({"instruction": "Hi", "input": None, "output": "Hello"}) == Conversation(said("Hi", "Hello"))
        assert convert({"instruction": "Hi", "output": "Hello"}) == Conversation(said("Hi", "Hello"))

    def test_the_query_alone_is_the_prompt(self) -> None:
        assert convert({"instruction": "", "input": "2 + 3", "output": "5"}) == Conversation(said("2 + 3", "5"))

    def test_system_history_and_tools(self) -> None:
        columns = {
            "prompt": "q",
            "response": "a",
            "history": "before",
            "system": "sys",
            "tools": "tools",
        }
        row = {
            "q": "And you?",
            "a": "Fine.",
            "before": [["Hi", "Hello"], ["How is it?", "Good."]],
            "sys": "Be short.",
            "tools": '[{"name": "clock"}]',
        }
        assert convert(row, columns=columns) == Conversation(
            (SYSTEM, *said("Hi", "Hello"), *said("How is it?", "Good."), *said("And you?", "Fine.")),
            ({"name": "clock"},),
        )

    def test_a_key_that_columns_does_not_list_is_absent(self) -> None:
        row = {"instruction": "Add.", "input": "2 + 3", "output": "5"}
        columns = {"prompt": "instruction", "response": "output"}
        assert convert(row, columns=columns) == Conversation(said("Add.", "5"))

    def test_text_is_kept_as_it_stands(self) -> None:
        row = {"instruction": " 你好 \n", "output": "\tHello  "}
        assert convert(row) == Conversation(said(" 你好 \n", "\tHello  "))

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ({"instruction": "Hi", "output": ""}, "empty answer at output"),
            ({"instruction": "Hi", "output": " \n"}, "empty answer at output"),
            ({"instruction": "Hi", "output": None}, "empty answer at output"),
            ({"instruction": "Hi"}, "column missing at output"),
            ({"output": "Hi"}, "column missing at instruction"),
            ({"instruction": "", "input": "", "output": "Hi"}, "empty prompt at instruction"),
            ({"instruction": "Hi", "output": 5}, "not text at output: a number"),
            ({"instruction": ["Hi"], "output": "Ho"}, "not text at instruction: a list"),
            ({"instruction": "Hi", "input": {}, "output": "Ho"}, "not text at input: an object"),
            (
                {"instruction": "Hi", "output": "\ud83d"},
                "broken characters at output: half of a surrogate pair",
            ),
        ],
    )
    def test_bad_rows(self, row: Any, expected: str) -> None:
        assert reason(row) == expected

    @pytest.mark.parametrize(
        ("history", "expected"),
        [
            ("hi", "broken history at history: text"),
            (["hi"], "broken history at history[0]: not a pair of question and answer"),
            ([["a", "b"], ["c"]], "broken history at history[1]: not a pair of question and answer"),
            ([["a", None]], "empty answer at history[0][1]"),
            ([["", "b"]], "empty prompt at history[0][0]"),
            ([["a", 1]], "not text at history[0][1]: a number"),
        ],
    )
    def test_bad_history(self, history: Any, expected: str) -> None:
        columns = {"prompt": "instruction", "response": "output", "history": "history"}
        row = {"instruction": "Hi", "output": "Ho", "history": history}
        assert reason(row, columns=columns) == expected


class TestPromptCompletion:
    def test_two_texts(self) -> None:
        row = {"prompt": "Hi", "completion": "Ho"}
        assert convert(row, formatting="prompt_completion") == Conversation(said("Hi", "Ho"))

    def test_two_lists_train_only_the_second(self) -> None:
        before = [message("user", "Hi"), message("assistant", "Ho"), message("user", "And?")]
        row = {"prompt": before, "completion": [message("assistant", "Well.")]}
        first, second = said("Hi", "Ho")
        assert convert(row, formatting="prompt_completion") == Conversation(
            (first, replace(second, weight=0.0), *said("And?", "Well."))
        )

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ({"prompt": "Hi"}, "column missing at completion"),
            ({"prompt": "Hi", "completion": ""}, "empty answer at completion"),
            ({"prompt": "", "completion": "Ho"}, "empty prompt at prompt"),
            ({"prompt": 3, "completion": "Ho"}, "not text at prompt: a number"),
            ({"prompt": [], "completion": "Ho"}, "first turn is the assistant's at completion"),
            ({"prompt": "Hi", "completion": []}, "no answer at prompt"),
        ],
    )
    def test_bad_rows(self, row: Any, expected: str) -> None:
        assert reason(row, formatting="prompt_completion") == expected


class TestRowWeight:
    def test_it_scales_each_answer(self) -> None:
        messages = [
            message("user", "a"),
            message("assistant", "b", weight=2),
            message("user", "c"),
            message("assistant", "d"),
        ]
        made = convert(
            {"messages": messages, "quality": 0.5},
            formatting="openai",
            columns={"messages": "messages", "weight": "quality"},
        )
        assert isinstance(made, Conversation)
        assert [turn.weight for turn in made.turns if turn.role == "assistant"] == [1.0, 0.5]

    def test_without_its_column_a_key_of_that_name_means_nothing(self) -> None:
        row = {"instruction": "How heavy?", "output": "80 kg", "weight": 80}
        assert convert(row) == Conversation(said("How heavy?", "80 kg"))

    def test_zero_leaves_the_row_out_and_nonsense_is_a_bad_row(self) -> None:
        columns = {"prompt": "instruction", "response": "output", "weight": "w"}
        row = {"instruction": "Hi", "output": "Hello"}
        assert reason({**row, "w": 0}, columns=columns) == "no answer is trained at w: the weight is 0"
        assert reason({**row, "w": "much"}, columns=columns).startswith("broken weight at w")
        assert convert({**row, "w": None}, columns=columns) == Conversation(said("Hi", "Hello"))
