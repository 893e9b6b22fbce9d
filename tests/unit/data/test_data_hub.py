"""Datasets on hubs and in cloud stores, fetched from a server in the test, a stand-in package and a store in memory."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data.load import Loaded, load_samples
from burnish.data.records import Conversation
from burnish.data.sources import default_cache_dir
from burnish.errors import BurnishError, DataError, MissingExtraError
from tests.unit.data.hub_server import Hub, Repository, serve

DATA, CACHE = Path("data"), Path("cache")


def lines(*answers: str) -> bytes:
    return b"".join(json.dumps({"instruction": "q", "output": answer}).encode() + b"\n" for answer in answers)


def parquet(*answers: str) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"instruction": "q", "output": answer} for answer in answers]), stream)
    return stream.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serve() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def add(write: Any, **entry: Any) -> None:
    write("dataset_info.json", {"mine": {"hf_hub_url": "who/what", **entry}})


def load(**options: Any) -> Loaded:
    return load_samples(["mine"], DATA, cache_dir=CACHE, **options)


def answers(loaded: Loaded) -> list[str]:
    records = [sample.record for sample in loaded.samples]
    return [record.turns[-1].content for record in records if isinstance(record, Conversation)]


def failure(**options: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(BurnishError) as caught:
        load(**options)
    return caught.value.what, caught.value.at, caught.value.fix


def test_only_the_files_of_the_split_are_fetched_and_only_once(write: Any, hub: Hub) -> None:
    files = {
        "README.md": b"x",
        "what.py": b"raise SystemExit('never run')",
        "data/train-00000-of-00002.parquet": parquet("a", "b"),
        "data/train-00001-of-00002.parquet": parquet("c"),
        "data/test-00000-of-00001.parquet": parquet("t"),
    }
    hub.repositories["who/what"] = Repository({"main": files})
    add(write)
    loaded = load()
    assert (answers(loaded), loaded.notes) == (["a", "b", "c"], [])
    assert [file.name for file in loaded.files] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert {asked.split()[0] for asked in hub.asked} == {"GET", "HEAD"}
    assert not [asked for asked in hub.asked if "test-" in asked or "what.py" in asked]
    hub.asked.clear()
    assert load().fingerprint == loaded.fingerprint
    assert hub.asked == ["GET /api/datasets/who/what/revision/main"]
    add(write, split="test")
    assert answers(load()) == ["t"]
    add(write, split="tset")
    assert failure() == (
        "'who/what' has no split 'tset'",
        "data/dataset_info.json: mine.split",
        "did you mean 'test'?",
    )


def test_the_card_says_which_files_belong_where(write: Any, hub: Hub) -> None:
    card = {
        "configs": [
            {"config_name": "en", "data_files": [{"split": "train", "path": "x/*.jsonl"}], "default": True},
            {"config_name": "zh", "data_dir": "zh", "data_files": [{"split": "dev", "path": ["one.jsonl", "**/2*"]}]},
        ]
    }
    files = {"x/1.jsonl": lines("a"), "x/y/2.jsonl": lines("b"), "zh/one.jsonl": lines("c"), "zh/y/2.jsonl": lines("d")}
    hub.repositories["who/what"] = Repository({"main": files}, card)
    add(write)
    assert answers(load()) == ["a"]
    add(write, subset="zh", split="dev")
    assert answers(load()) == ["c", "d"]
    add(write, subset="zn")
    assert failure()[0] == "'who/what' has no subset 'zn'"
    card["configs"][0]["default"] = False
    add(write)
    assert failure() == (
        "'who/what' has several subsets",
        "data/dataset_info.json: mine",
        'add "subset" with one of: en, zh',
    )


def test_words_in_names_folders_and_revisions(write: Any, hub: Hub) -> None:
    files = {
        "python/train.jsonl": lines("p"),
        "java/train.jsonl": lines("j"),
        "java/val.jsonl.gz": b"",
        "LICENSE": b"x",
    }
    old = {"all.jsonl": lines("old"), "more.csv": b"instruction,output\n"}
    hub.repositories["who/what"] = Repository({"main": files, "v1": old})
    add(write, folder="python")
    assert answers(load()) == ["p"]
    add(write, subset="java")
    assert answers(load()) == ["j"]
    add(write, folder="rust")
    assert failure()[2] == "known: java, python"
    add(write, revision="v1")
    loaded = load()
    assert answers(loaded) == ["old"]
    assert loaded.notes == ["mine: its .json files are read; files of other types are not: 1 .csv"]
    add(write, revision="v2")
    assert failure()[0] == "'who/what' has no revision 'v2'"


def test_a_repository_with_only_a_script(write: Any, hub: Hub) -> None:
    converted = {"default/train/0000.parquet": parquet("a"), "other/partial-train/0000.parquet": parquet("b")}
    hub.repositories["who/what"] = Repository({"main": {"what.py": b"x"}, "refs/convert/parquet": converted})
    add(write)
    loaded = load()
    assert answers(loaded) == ["a"]
    note = "mine: 'who/what' has no data files; the Parquet files that the hub made are read"
    assert loaded.notes == [note]
    add(write, subset="other")
    assert load().notes == [
        note,
        "mine: the hub converted only the first part of this dataset; only that part is read",
    ]
    hub.repositories["who/what"].revisions["refs/convert/parquet"] = {"x.txt": b""}
    assert failure()[0] == "'who/what' has no data files that can be read (a loading script is never run)"


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    write: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    data = lines(*(f"answer {number}" for number in range(2000)))
    hub.repositories["who/what"] = Repository({"main": {"a.jsonl": data}})
    hub.cut["a.jsonl"] = 1000
    add(write)
    loaded = load()
    assert len(loaded.samples) == 2000
    assert hub.ranges == ["bytes=1000-"]
    assert loaded.files[0].read_bytes() == data


def test_tokens(write: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["who/what"] = Repository({"main": {"a.jsonl": lines("a")}}, token="secret")
    add(write)
    assert failure() == (
        "'who/what' is not on the hub",
        "data/dataset_info.json: mine",
        "check the name (owner/dataset); for a private one set HF_TOKEN or hf_hub_token",
    )
    assert answers(load(hub_token="secret")) == ["a"]
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert answers(load()) == ["a"]


def test_offline_and_out_of_reach(write: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.repositories["who/what"] = Repository({"main": {"a.jsonl": lines("a")}})
    add(write)
    first = load()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    loaded = load()
    assert loaded.fingerprint == first.fingerprint
    assert "the copy in the cache is used" in loaded.notes[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load().samples == first.samples
    write("dataset_info.json", {"mine": {"hf_hub_url": "who/else"}})
    assert failure()[0] == "'who/else' is not in the cache, and HF_HUB_OFFLINE is set"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert failure()[0].startswith("'who/else' cannot be fetched: ")
    write("dataset_info.json", {"mine": {"hf_hub_url": "who/what/else"}})
    assert failure()[0].startswith("'who/what/else' is no name of a dataset: ")


def test_a_stage_that_does_not_fit_is_told_before_anything_is_fetched(write: Any, hub: Hub) -> None:
    add(write)
    assert failure(stage="dpo")[0] == "'mine' holds conversations, which stage 'dpo' cannot train on"
    assert hub.asked == []


def test_modelscope(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def dataset_snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        (tmp_path / "ms").mkdir(exist_ok=True)
        (tmp_path / "ms" / "train.jsonl").write_bytes(lines("a"))
        (tmp_path / "ms" / "test.jsonl").write_bytes(lines("b"))
        card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: 'te*'}\n---\n# Mine\n"
        (tmp_path / "ms" / "README.md").write_text(card, encoding="utf-8")
        return str(tmp_path / "ms")

    write("dataset_info.json", {"mine": {"hf_hub_url": "who/what", "ms_hub_url": "ms/what", "split": "test"}})
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError) as caught:
        load()
    assert caught.value.fix == "pip install 'burnish[modelscope]'"
    package = types.ModuleType("modelscope.hub.snapshot_download")
    package.dataset_snapshot_download = dataset_snapshot_download  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    assert answers(load(hub_token="for the other hub", ms_hub_token="secret")) == ["b"]
    name, options = calls[0]
    assert (name, options["revision"], options["token"]) == ("ms/what", "master", "secret")
    assert options["cache_dir"] == "cache/modelscope"
    assert "*.parquet" in options["allow_patterns"]
    assert not [pattern for pattern in options["allow_patterns"] if pattern.endswith(".py")]

    def broken(name: str, **options: Any) -> str:
        raise RuntimeError("no such dataset\nat all")

    package.dataset_snapshot_download = broken  # type: ignore[attr-defined]
    assert failure()[0] == "'ms/what' cannot be fetched from ModelScope: no such dataset"


def test_cloud_stores(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.pipe("/bucket/set/a.jsonl", lines("a"))
    store.pipe("/bucket/set/b/b.jsonl", lines("b"))
    store.pipe("/bucket/set/run.py", b"x")
    write("dataset_info.json", {"mine": {"cloud_file_name": "memory://bucket/set"}})
    assert answers(load()) == ["a", "b"]
    write("dataset_info.json", {"mine": {"cloud_file_name": "memory://bucket/set/a.jsonl"}})
    assert answers(load()) == ["a"]
    store.pipe("/bucket/set/a.jsonl", lines("newer"))
    assert answers(load()) == ["newer"]
    write("dataset_info.json", {"mine": {"cloud_file_name": "memory://bucket/nothing"}})
    assert failure()[:2] == ("no data file is there", "data/dataset_info.json: mine: memory://bucket/nothing")
    write("dataset_info.json", {"mine": {"cloud_file_name": "bucket/set"}})
    assert failure()[0] == "'bucket/set' is no address in a cloud store"
    write("dataset_info.json", {"mine": {"cloud_file_name": "s4://bucket"}})
    assert failure()[1] == "data/dataset_info.json: mine.cloud_file_name"
    for protocol, package, extra in (("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("gcs", "gcsfs", "gcs")):
        monkeypatch.setitem(sys.modules, package, None)
        write("dataset_info.json", {"mine": {"cloud_file_name": f"{protocol}://bucket/set"}})
        assert failure() == (
            f"reading {protocol}:// needs a package that is not installed",
            None,
            f"pip install 'burnish[{extra}]'",
        )
    store.rm("/bucket", recursive=True)


def test_where_fetched_data_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_CACHE", "here")
    assert default_cache_dir() == Path("here/datasets")
    monkeypatch.delenv("BURNISH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "there")
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_cache_dir() == Path("there/burnish/datasets")


def test_a_big_file_shows_how_far_it_is(
    write: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from burnish.data import hub as hub_module

    monkeypatch.setattr(hub_module, "_BIG_BYTES", 1 << 20)
    long = "x" * 1000
    hub.repositories["who/what"] = Repository({"main": {"a.jsonl": lines(*[long] * 4000)}})
    add(write)
    assert len(load().samples) == 4000
    assert "fetching a.jsonl (MB) 3/3" in capsys.readouterr().out


def test_errors_of_the_fetch_are_data_errors(write: Any, hub: Hub) -> None:
    hub.repositories["who/what"] = Repository({"main": {"a.jsonl": b'{"instruction": "q"'}})
    add(write)
    with pytest.raises(DataError) as caught:
        load()
    assert caught.value.what.startswith("broken JSON")


def test_a_hub_dataset_is_named_directly(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"data/train.jsonl": lines("a"), "data/test.jsonl": lines("t"), "two/train.jsonl": lines("b")}
    card = [
        {"config_name": "one", "data_files": [{"split": "train", "path": "data/train*"}]},
        {"config_name": "two", "data_files": [{"split": "train", "path": "two/train*"}]},
    ]
    hub.repositories["who/what"] = Repository({"main": files, "old": {"train.jsonl": lines("o")}})
    hub.repositories["who/parts"] = Repository({"main": files}, {"configs": card})

    def read(name: str) -> tuple[list[str], list[str]]:
        loaded = load_samples([name], DATA, cache_dir=CACHE)
        return answers(loaded), loaded.notes

    answer, notes = read("who/what:test")
    assert answer == ["t"]
    assert notes == ["who/what:test: read as alpaca, by its first rows (instruction, output)"]
    assert read("who/what@old")[0] == ["o"]
    assert read("who/parts:two:train")[0] == ["b"]
    with pytest.raises(DataError) as caught:
        read("who/nothing")
    assert (caught.value.what, caught.value.at) == ("'who/nothing' is not on the hub", "who/nothing")
    assert "there is no file 'who/nothing' here either" in str(caught.value.fix)
    assert read("who/what:train[-50%:]")[0] == ["b"]
    assert read("who/what:train[:1]+test")[0] == ["a", "t"]
    assert read("who/parts:two:train[0:1]")[0] == ["b"]
    for name in ("who/what:a:b:c", "who/what:"):
        with pytest.raises(DataError, match="names no part of a hub dataset"):
            read(name)


def test_a_folder_of_that_name_is_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("who").mkdir()
    with pytest.raises(DataError, match="unknown dataset 'who/what'"):
        load_samples(["who/what"], DATA, cache_dir=CACHE)
    assert not hub.asked
