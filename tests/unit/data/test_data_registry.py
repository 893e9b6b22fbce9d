"""dataset_info.json: keys, defaults, and what is said of a broken entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.data.registry import (
    dataset_names,
    describe_registry,
    find_registry,
    parse_entry,
    read_registry,
    resolve,
)
from burnish.data.spec import NO_COLUMNS, NO_TAGS, OPENAI_TAGS, Columns, DatasetSpec, Tags
from burnish.errors import DataError

FILE = Path("data/dataset_info.json")
DATA = Path("data")


def spec(**entry: Any) -> DatasetSpec:
    return parse_entry("mine", {"file_name": "mine.json"} | entry, FILE)


def failure(entry: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(DataError) as caught:
        parse_entry("mine", entry, FILE)
    return caught.value.what, caught.value.at, caught.value.fix


def test_defaults() -> None:
    found = spec()
    assert (found.source_kind, found.path, found.formatting) == ("file", Path("data/mine.json"), "alpaca")
    assert (found.columns, found.split, found.holds) == (Columns(), "train", "conversation")
    assert found.where("columns.prompt") == "data/dataset_info.json: mine.columns.prompt"
    assert (spec(formatting="sharegpt").columns, spec(formatting="sharegpt").tags) == (Columns(), Tags())
    assert (spec(formatting="openai").columns.messages, spec(formatting="openai").tags) == (
        "messages",
        OPENAI_TAGS,
    )


def test_once_columns_is_there_an_unlisted_key_is_absent() -> None:
    found = spec(columns={"prompt": "q", "response": "a"})
    assert found.columns == Columns("q", None, "a", None, None)
    assert found.columns.query is None
    assert found.listed == {"columns.prompt", "columns.response"}
    assert NO_COLUMNS.prompt is None


def test_once_tags_is_there_an_unlisted_key_is_absent() -> None:
    listed = {"role_tag": "role", "content_tag": "content", "user_tag": "u", "assistant_tag": "a"}
    found = spec(formatting="sharegpt", tags=listed)
    assert found.tags == Tags("role", "content", "u", "a", None, None, None)
    assert found.columns == Columns()
    assert NO_TAGS.role_tag is None


def test_the_order_of_sources() -> None:
    keys = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name"]
    for index, key in enumerate(keys):
        found = parse_entry("mine", {later: later for later in reversed(keys[index:])}, FILE)
        assert found.source == key


def test_what_a_dataset_holds() -> None:
    assert spec(ranking=True, columns={"prompt": "q", "chosen": "c", "rejected": "r"}).holds == "preference"
    assert spec(formatting="sharegpt", columns={"messages": "m", "kto_tag": "label"}).holds == "feedback"
    assert spec(columns={"prompt": "text"}).holds == "document"


@pytest.mark.parametrize(
    ("entry", "what", "key", "fix"),
    [
        (
            {"file_name": "a.json", "formating": "alpaca"},
            "unknown key 'formating'",
            ".formating",
            "did you mean 'formatting'?",
        ),
        (
            {"file_name": "a.json", "columns": {"prompt": "q", "respons": "a"}},
            "unknown key 'respons'",
            ".columns.respons",
            "did you mean 'response'?",
        ),
        (
            {"file_name": "a.json", "tags": {"role_tags": "role"}},
            "unknown key 'role_tags'",
            ".tags.role_tags",
            "did you mean 'role_tag'?",
        ),
        (
            {"file_name": "a.json", "formatting": "sharegtp"},
            "unknown formatting 'sharegtp'",
            ".formatting",
            "did you mean 'sharegpt'?",
        ),
        ({"formatting": "alpaca"}, "the entry names no source", "", 'add "file_name": "my_data.jsonl"'),
        ("a.json", "the entry is text", "", 'write {"file_name": "my_data.jsonl"}'),
        ({"file_name": 3}, "this must be text, not a number", ".file_name", None),
        (
            {"file_name": "a", "columns": {"prompt": 1}},
            "this must be text, not a number",
            ".columns.prompt",
            None,
        ),
        (
            {"file_name": "a", "num_samples": True},
            "this must be a whole number, not true or false",
            ".num_samples",
            None,
        ),
        (
            {"file_name": "a", "num_samples": 0},
            "num_samples is 0",
            ".num_samples",
            "give a count of at least 1",
        ),
        (
            {"file_name": "a", "formatting": "sharegpt", "columns": {"tools": "tools"}},
            "columns does not list 'messages', which sharegpt data needs",
            ".columns",
            'add "messages": "conversations" (what columns does not list is absent)',
        ),
        (
            {"file_name": "a", "formatting": "sharegpt", "tags": {"role_tag": "role"}},
            "tags does not list 'content_tag', which sharegpt data needs",
            ".tags",
            'add "content_tag": "value" (what tags does not list is absent)',
        ),
    ],
)
def test_broken_entries(entry: Any, what: str, key: str, fix: str | None) -> None:
    assert failure(entry) == (what, f"data/dataset_info.json: mine{key}", fix)


def test_yaml_is_an_equal(write: Any) -> None:
    write("dataset_info.yaml", "mine:\n  file_name: mine.json\n  columns: {prompt: q, response: a}\n")
    found = resolve("mine", DATA)
    assert found.columns.prompt == "q"
    assert found.entry == "data/dataset_info.yaml: mine"


@pytest.mark.parametrize(
    ("name", "text", "what", "place"),
    [
        (
            "dataset_info.json",
            '{"a":\n{"b" 1}}',
            "broken JSON: Expecting ':' delimiter",
            ": line 2, column 6",
        ),
        ("dataset_info.json", "[]", "the registry is a list, not a table of datasets", ""),
        ("dataset_info.json", '{"a": {"x": 1, "x": 2}}', "the key 'x' stands there twice", ""),
        (
            "dataset_info.yaml",
            "a: [1\nb: 2",
            "broken YAML: expected ',' or ']', but got ':'",
            ": line 2, column 2",
        ),
    ],
)
def test_broken_registries(write: Any, name: str, text: str, what: str, place: str) -> None:
    path = write(name, text)
    with pytest.raises(DataError) as caught:
        read_registry(path)
    assert (caught.value.what, caught.value.at) == (what, f"data/{name}{place}")


def test_unknown_names(write: Any) -> None:
    with pytest.raises(DataError) as caught:
        resolve("mine", DATA)
    assert (caught.value.what, caught.value.at) == (
        "unknown dataset 'mine': there is no dataset_info.json",
        "data",
    )
    write("dataset_info.json", {"my_chats": {"file_name": "a.json"}, "wiki": {"file_name": "b.json"}})
    with pytest.raises(DataError) as caught:
        resolve("my_chat", DATA)
    assert str(caught.value) == (
        "unknown dataset 'my_chat'\n  at: data/dataset_info.json\n  fix: did you mean 'my_chats'?"
    )
    with pytest.raises(DataError) as caught:
        resolve("zzz", DATA)
    assert caught.value.fix == "known: my_chats, wiki"


def test_a_path_with_a_misspelt_ending_names_the_files_beside_it(write: Any) -> None:
    write("dataset_info.json", {"my_chats": {"file_name": "a.json"}})
    write("chats.csv", "a,b")
    write("chats.jsonl", [{}])
    with pytest.raises(DataError) as caught:
        resolve("data/chats.jsnl", DATA)
    assert str(caught.value) == "file not found\n  at: data/chats.jsnl\n  fix: did you mean 'chats.jsonl'?"
    with pytest.raises(DataError, match=r"the folder nowhere/in does not exist"):
        resolve("nowhere/in/chats", DATA)


def test_a_path_is_looked_up_here_and_then_in_dataset_dir(write: Any) -> None:
    path = write("a.json", [{}])
    assert resolve("data/a.json", DATA).path == path
    assert resolve("a.json", DATA).path == path
    assert resolve(str(path.absolute()), DATA).path == path.absolute()
    assert resolve("data/b.json", DATA).path == Path("data/b.json")
    assert resolve("b.json", DATA).path == Path("data/b.json")
    assert resolve("a.json", DATA).formatting is None
    write("dataset_info.json", {"a.json": {"file_name": "other.json"}})
    assert resolve("a.json", DATA).path == Path("data/other.json")


def test_dataset_names() -> None:
    assert dataset_names("a, b ,,c") == ["a", "b", "c"]
    assert dataset_names(["a", " b"]) == ["a", "b"]


def test_describe_registry(write: Any) -> None:
    size = write("a.json", [{"instruction": "Hi", "output": "Ho"}]).stat().st_size
    write(
        "dataset_info.json",
        {
            "here": {"file_name": "a.json"},
            "gone": {"file_name": "b.json", "formatting": "openai"},
            "hub": {"hf_hub_url": "who/what"},
            "odd": {"file": "a.json"},
        },
    )
    assert find_registry(DATA) == FILE
    common = {"format": "alpaca", "holds": "conversation", "bytes": None, "exists": None, "problem": None}
    assert describe_registry(DATA) == [
        common | {"name": "here", "source": "a.json", "bytes": size, "exists": True},
        common | {"name": "gone", "source": "b.json", "format": "openai", "exists": False},
        common | {"name": "hub", "source": "hf_hub:who/what"},
        common | {"name": "odd", "source": None, "format": None, "holds": None, "problem": "unknown key 'file'"},
    ]
    with pytest.raises(DataError):
        describe_registry(Path("elsewhere"))


@pytest.mark.shared
def test_the_whole_demo_registry_is_understood(demo_sets: Path) -> None:
    assert [row["name"] for row in describe_registry(demo_sets) if row["problem"]] == []
