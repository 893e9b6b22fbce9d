"""Every stage's data through load_samples: guesses, stages that do not fit, the lazy sibling, the demo sets."""

from __future__ import annotations

import gzip
import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from burnish.data.checks import STAGE_RECORD, check_stage
from burnish.data.load import Tally, iter_samples, load_samples
from burnish.data.records import Conversation, Document, Feedback, Preference, Prompt, Turn
from burnish.data.registry import describe_registry, parse_entry, read_registry, resolve
from burnish.errors import DataError

DATA = Path("data")
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
OTHER = [CHAT[0], {"role": "assistant", "content": "No"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
HI, HO, NO = Turn("user", "Hi"), Turn("assistant", "Ho"), Turn("assistant", "No")
ASKED = Conversation((HI,))
PAIR = Preference(ASKED, (HO,), (NO,))


def failure(*names: str, **options: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(DataError) as caught:
        load_samples(names, DATA, **options)
    return caught.value.what, caught.value.at, caught.value.fix


@pytest.mark.parametrize(
    ("stage", "row", "record", "guess"),
    [
        ("pt", {"text": "Long ago"}, Document("Long ago"), "plain text"),
        ("pt", {"text": "Long ago", "prompt": "q", "completion": "a"}, Document("Long ago"), "plain text"),
        ("pt", {"content": "Long ago", "input": "x"}, Document("Long ago"), "plain text"),
        (
            "kto",
            {"prompt": "Hi", "completion": "Ho", "label": 1},
            Feedback(Conversation((HI, HO)), True),
            "prompt and completion with a judgement",
        ),
        ("sft", {"instruction": "Hi", "context": "", "response": "Ho"}, Conversation((HI, HO)), "alpaca"),
        ("dpo", {"prompt": "Hi", "chosen": "Ho", "rejected": "No"}, PAIR, "alpaca with chosen and rejected answers"),
        ("rm", {"question": "Hi", "chosen": "Ho", "rejected": "No"}, PAIR, "alpaca with chosen and rejected answers"),
        (
            "dpo",
            {"instruction": "Hi", "input": "", "chosen": "Ho", "rejected": "No"},
            PAIR,
            "alpaca with chosen and rejected answers",
        ),
        (
            "dpo",
            {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": OTHER[1:]},
            PAIR,
            "prompt and completion with chosen and rejected answers",
        ),
        (
            "dpo",
            {"prompt": "Hi", "chosen": CHAT, "rejected": OTHER},
            PAIR,
            "prompt and completion with chosen and rejected answers",
        ),
        ("dpo", {"chosen": CHAT, "rejected": OTHER}, PAIR, "openai messages with chosen and rejected answers"),
        (
            "dpo",
            {"chosen": SHAREGPT, "rejected": [SHAREGPT[0], {"from": "gpt", "value": "No"}]},
            PAIR,
            "sharegpt with chosen and rejected answers",
        ),
        (
            "dpo",
            {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "No"}},
            PAIR,
            "sharegpt with chosen and rejected answers",
        ),
        (
            "kto",
            {"messages": CHAT, "label": True},
            Feedback(Conversation((HI, HO)), True),
            "openai messages with a judgement",
        ),
        (
            "kto",
            {"prompt": "Hi", "completion": "Ho", "label": "False"},
            Feedback(Conversation((HI, HO)), False),
            "prompt and completion with a judgement",
        ),
        ("grpo", {"question": "Hi", "answer": "Ho"}, Prompt(ASKED, {"answer": "Ho"}), "alpaca"),
        ("grpo", {"problem": "Hi", "level": 3}, Prompt(ASKED, {"level": 3}), "prompt and completion"),
        ("ppo", {"prompt": CHAT[:1], "solution": "5"}, Prompt(ASKED, {"solution": "5"}), "prompt and completion"),
        ("ppo", {"messages": CHAT}, Prompt(ASKED, {"answer": "Ho"}), "openai messages"),
        ("sft", {"history": [["Hi", "Ho"]], "prefix": ""}, Conversation((HI, HO)), "alpaca"),
    ],
)
def test_a_file_named_directly(write: Any, stage: str, row: Any, record: Any, guess: str) -> None:
    write("a.json", [row])
    loaded = load_samples(["a.json"], DATA, stage=stage)
    assert [sample.record for sample in loaded.samples] == [record]
    assert loaded.notes[0].startswith(f"a.json: read as {guess}, by its first rows (")
    assert len(loaded.notes) == 1


def test_a_file_without_a_text_column(write: Any) -> None:
    write("a.json", [{"body": "Long ago"}])
    assert failure("a.json", stage="pt")[2] == (
        'the file has: body; name its columns in dataset_info.json, the text\'s as "prompt", or call it text'
    )


def test_texts_of_csv(write: Any) -> None:
    write(
        "a.csv",
        'messages,label\n"[{""role"": ""user"", ""content"": ""Hi""}, '
        '{""role"": ""assistant"", ""content"": ""Ho""}]",true\n',
    )
    assert load_samples(["a.csv"], DATA, stage="kto").samples[0].record == Feedback(Conversation((HI, HO)), True)


def test_lines_of_text_and_packed_files_and_folders(write: Any) -> None:
    write("texts/a.txt", "One\n\nTwo\n")
    write("texts/b/c.txt.gz", gzip.compress(b"Three\n"))
    for name in ("data/texts", "data/texts/**/*.txt*"):
        samples = load_samples([name], DATA, stage="pt").samples
        assert [(sample.record, sample.row, sample.file) for sample in samples] == [
            (Document("One"), 0, "data/texts/a.txt"),
            (Document("Two"), 1, "data/texts/a.txt"),
            (Document("Three"), 0, "data/texts/b/c.txt.gz"),
        ]
    write("dataset_info.json", {"texts": {"file_name": "texts/*.txt", "columns": {"prompt": "text"}}})
    assert len(load_samples(["texts"], DATA, stage="pt").samples) == 2
    size = (DATA / "texts" / "a.txt").stat().st_size
    assert [(row["exists"], row["bytes"]) for row in describe_registry(DATA)] == [(True, size)]
    assert resolve("data/nothing/*.txt", DATA).path == Path("data/nothing/*.txt")
    assert failure("data/texts/*.csv")[0] == "no file matches the pattern"


def test_rows_of_several_files_are_told_apart(write: Any) -> None:
    for name in ("a", "b"):
        write(f"set/{name}.jsonl", [{"prompt": "q", "completion": ""}, {"prompt": "q", "completion": "a"}])
    what, at, fix = failure("data/set")
    assert what == "2 of 4 rows (50.0%) of 'data/set' cannot be used: empty answer (2)"
    assert at == "data/set/a.jsonl"
    assert fix is not None
    assert fix.endswith("a.jsonl, row 0: empty answer at completion; b.jsonl, row 0: empty answer at completion")


def test_a_row_of_a_table_that_is_too_long(write: Any) -> None:
    write("a.csv", "prompt,completion\na,b\nc,d,e\n")
    loaded = load_samples(["a.csv"], DATA)
    assert loaded.bad_rows == [("a.csv", "data/a.csv", 1, "too many fields: line 3 has 3, the first line names 2")]


@pytest.mark.parametrize(
    ("entry", "stage", "what", "fix"),
    [
        (
            {},
            "pt",
            "'a' holds conversations, which stage 'pt' cannot train on",
            'list the column of the text: "columns": {"prompt": "text"}, or set stage to sft, '
            "or choose another dataset",
        ),
        (
            {"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
            "kto",
            "'a' holds preference pairs, which stage 'kto' cannot train on",
            "set stage to dpo or rm, or choose another dataset",
        ),
        (
            {"formatting": "prompt_completion", "columns": {"prompt": "q"}},
            "sft",
            "'a' holds prompts without answers, which stage 'sft' cannot train on",
            "set stage to ppo or grpo or rloo, or choose another dataset",
        ),
        (
            {"columns": {"prompt": "q"}},
            "sft",
            "'a' holds plain text, which stage 'sft' cannot train on",
            'list the answer\'s column as "response" under columns, or set stage to pt',
        ),
    ],
)
def test_stages_that_do_not_fit(write: Any, entry: Any, stage: str, what: str, fix: str) -> None:
    write("dataset_info.json", {"a": {"file_name": "not there.json", **entry}})
    assert failure("a", stage=stage) == (what, "data/dataset_info.json: a", fix)


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        (
            {"ranking": True, "columns": {"prompt": "q"}},
            "columns does not list 'chosen', which ranking data needs",
            'add "chosen": "chosen", "rejected": "rejected" (what columns does not list is absent)',
        ),
        (
            {"formatting": "sharegpt", "columns": {"chosen": "c", "rejected": "r"}},
            "columns does not list 'messages', which sharegpt data needs",
            'add "messages": "conversations" (what columns does not list is absent)',
        ),
    ],
)
def test_entries_that_lack_a_column(entry: Any, what: str, fix: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_entry("a", {"file_name": "a.json", **entry}, Path("dataset_info.json"))
    assert (caught.value.what, caught.value.fix) == (what, fix)


def test_columns_that_are_not_there_in_other_stages(write: Any) -> None:
    write("a.json", [{"q": "Hi", "good": "Ho", "rejected": "No"}])
    columns = {"prompt": "q", "chosen": "chosen", "rejected": "rejected"}
    write("dataset_info.json", {"a": {"file_name": "a.json", "ranking": True, "columns": columns}})
    assert failure("a", stage="dpo") == (
        "column 'chosen' is not in the data",
        "data/dataset_info.json: a.columns.chosen",
        "the file has: q, good, rejected",
    )
    write(
        "dataset_info.json",
        {"a": {"file_name": "a.json", "columns": {"prompt": "q", "response": "good", "kto_tag": "l"}}},
    )
    assert failure("a", stage="kto")[:2] == (
        "column 'l' is not in the data",
        "data/dataset_info.json: a.columns.kto_tag",
    )


def test_samples_one_at_a_time(write: Any) -> None:
    write("a.jsonl", [{"prompt": "q", "completion": f"{number}"} for number in range(3000)])
    write("b.jsonl", [{"prompt": "q", "completion": ""}])
    tally = Tally()
    samples = iter_samples(["a.jsonl", "b.jsonl"], DATA, tally=tally)
    assert [sample.row for sample in islice(samples, 3)] == [0, 1, 2]
    assert tally.rows == 0
    with pytest.raises(DataError, match=r"none of the 1 rows of 'b\.jsonl' can be used"):
        list(samples)
    assert (tally.rows, tally.kept, tally.dropped) == (3001, 3000, {"empty answer": 1})
    with pytest.raises(DataError, match="unknown dataset"):  # at once, before a sample is asked for
        iter_samples(["a.jsonl", "c"], DATA)


def test_the_same_from_both(write: Any) -> None:
    write("a.jsonl", [{"instruction": "q", "input": "", "output": f"{number}"} for number in range(3000)])
    write("dataset_info.json", {"a": {"file_name": "a.jsonl", "num_samples": 4000}})
    listed = load_samples(["a", "a.jsonl"], DATA, seed=3)
    assert list(iter_samples(["a", "a.jsonl"], DATA, seed=3)) == listed.samples
    assert (len(listed.samples), listed.rows_read) == (7000, 6000)


def test_the_form_of_2023(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.json", [{"instruction": "Hi", "input": "", "output": "Ho"}])
    digest = hashlib.sha1(path.read_bytes()).hexdigest()
    columns = {"prompt": "instruction", "query": "input", "response": "output", "history": ""}
    write("old/part.json", [{"instruction": "Hi", "input": "", "output": "Ho"}])
    entries = {
        "file": {"file_name": "a.json", "file_sha1": digest, "columns": columns},
        "other": {"file_name": "a.json", "file_sha1": "0" * 40},
        "script": {"script_url": "old", "columns": columns},
        "hub": {"hf_hub_url": "who/what", "ms_hub_url": "ms/what", "script_url": "old", "columns": columns},
    }
    write("dataset_info.json", entries)
    record = Conversation((HI, HO))
    assert [sample.record for sample in load_samples(["file", "script"], DATA).samples] == [record, record]
    assert load_samples(["file"], DATA).notes == []
    assert load_samples(["other"], DATA).notes == ["other: the file is not the one that file_sha1 describes"]
    assert (resolve("hub", DATA).source_kind, resolve("hub", DATA).source) == ("hf_hub", "who/what")
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert (resolve("hub", DATA).source_kind, resolve("hub", DATA).source) == ("ms_hub", "ms/what")
    assert resolve("file", DATA).source_kind == "file"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "stage", "count"),
    [
        ("dpo_en_demo", "dpo", 300),
        ("dpo_en_demo", "rm", 300),
        ("kto_en_demo", "kto", 300),
        ("c4_demo", "pt", 300),
        ("wiki_demo", "pt", 30),
        ("alpaca_en_demo", "ppo", 999),
        ("glaive_toolcall_en_demo", "grpo", 300),
        ("identity", "ppo", 91),
    ],
)
def test_demo_sets_load_in_full(demo_sets: Path, name: str, stage: str, count: int) -> None:
    loaded = load_samples([name], demo_sets, stage=stage)
    assert (len(loaded.samples), loaded.rows_read, loaded.dropped, loaded.notes) == (count, count, {}, [])


@pytest.mark.shared
def test_gsm8k(demo_sets: Path) -> None:
    loaded = load_samples(["gsm8k/test.jsonl"], demo_sets, stage="grpo")
    assert (len(loaded.samples), loaded.dropped) == (loaded.rows_read, {})
    record = loaded.samples[0].record
    assert isinstance(record, Prompt)
    assert list(record.reference) == ["answer"]
    assert "####" in record.reference["answer"]


@pytest.mark.shared
def test_entries_of_the_demo_registry_resolve_to_the_right_request(demo_sets: Path) -> None:
    entries = read_registry(demo_sets / "dataset_info.json")
    asked = {}
    for name, entry in entries.items():
        spec = resolve(name, demo_sets)
        wanted = entry.get("hf_hub_url") or entry.get("ms_hub_url") or entry.get("file_name")
        assert spec.source == wanted, name
        asked[name] = (spec.source_kind, spec.source, spec.subset, spec.split, spec.folder, spec.holds)
        if not any(getattr(spec.columns, kind) for kind in ("images", "videos", "audios")):
            check_stage(spec, next(stage for stage, record in STAGE_RECORD.items() if record == spec.holds))
    assert asked["alpaca_en"] == ("hf_hub", "llamafactory/alpaca_en", None, "train", None, "conversation")
    assert asked["deepctrl"] == ("ms_hub", "deepctrl/deepctrl-sft-data", None, "train", None, "conversation")
    assert asked["adgen_eval"] == ("hf_hub", "HasturOfficial/adgen", None, "validation", None, "conversation")
    assert asked["dpo_mix_en"] == ("hf_hub", "llamafactory/DPO-En-Zh-20k", "en", "train", None, "preference")
    assert asked["orca_dpo_de"] == (
        "hf_hub",
        "mayflowergmbh/intel_orca_dpo_pairs_de",
        None,
        "train",
        None,
        "preference",
    )
    assert asked["kto_mix_en"] == ("hf_hub", "argilla/kto-mix-15k", None, "train", None, "feedback")
    assert asked["starcoder_python"] == ("hf_hub", "bigcode/starcoderdata", None, "train", "python", "document")
    assert asked["ultrachat_200k"][3] == "train_sft"


def test_what_a_fingerprint_looks_at_can_be_written(write: Any) -> None:
    write("a.json", [{"instruction": "Hi", "output": "Ho"}])
    assert json.dumps(resolve("a.json", DATA).identity())
