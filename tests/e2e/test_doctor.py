"""`burnish runs doctor` on real runs of a tiny model: the model is asked, rows are named. In this process."""

from __future__ import annotations

import json
import shutil

import pytest

from burnish import api
from burnish.cli.doctor import run_doctor
from burnish.errors import BurnishError
from burnish.runs.folder import RunFolder
from tests.runs import settings

ODD = 5


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run of 40 steps on 20 rows that answer yes, but for one; four rows are held out."""
    folder = tmp_path_factory.mktemp("doctor")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n} {'?' * (n % 3)}"},
                {"role": "assistant", "content": "zqxjkv" if n == ODD else "yes"},
            ]
        }
        for n in range(20)
    ]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    info = {
        "chats": {"file_name": data.name, "formatting": "openai"}
    }  # what is held out goes by the dataset's name, which a path changes
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    changes = {"val_size": 0.2, "seed": 4, "num_train_epochs": 5, "learning_rate": 1e-2, "finetuning_type": "full"}
    api.train(settings(tiny_folder, data, folder / "run", **changes, dataset=["chats"], dataset_dir=str(folder)))
    return folder / "run"


def examine(folder, capsys, **asked):
    capsys.readouterr()
    run_doctor(str(folder), as_json=True, **asked)
    return json.loads(capsys.readouterr().out)


def test_the_model_is_asked_and_rows_are_listed(run, capsys):
    told = examine(run, capsys, probe=6, worst=3)
    training, held_out = told["probe"]["training"], told["probe"]["held_out"]
    assert (training["asked"], training["rows"]) == (6, 16)
    assert (held_out["asked"], held_out["rows"]) == (4, 4)  # there are no more
    asked = {each["row"] for each in training["said"]}
    assert not asked & {each["row"] for each in held_out["said"]}
    assert training["loss"] < training["base_loss"] - 1
    assert training["exact"] >= 4
    assert told["worst"][0]["row"] == ODD
    assert told["worst"][0]["file"].endswith("chats.jsonl")
    assert told == examine(run, capsys, probe=6, worst=3)  # nothing is left to chance
    run_doctor(str(run), probe=2, worst=2)
    text = capsys.readouterr().out
    assert "What the model says" in text
    assert f"chats.jsonl:{ODD}" in text
    assert "zqxjkv" in text
    assert "probe" not in examine(run, capsys)


def test_losses_are_those_of_data_loss(run, capsys, tmp_path):
    from burnish.cli.data_loss import run_loss

    told = examine(run, capsys, worst=20)
    assert len(told["worst"]) == 16
    run_loss(
        str(run.parent / "chats.jsonl"),
        str(run),
        ["use_cpu=true", "val_size=0"],
        worst=0,
        to=str(tmp_path / "losses.jsonl"),
    )
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    wanted = {line["row"]: line["loss"] for line in lines}
    for row in told["worst"]:
        assert row["loss"] == pytest.approx(wanted[row["row"]], abs=2e-4)  # the adapter is merged here, beside there


@pytest.fixture
def spiky(run, tmp_path):
    """The same run, with spikes written into its metrics."""
    copy = tmp_path / "spiky"
    shutil.copytree(run, copy)
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if "loss" in row:
            row["loss"] = 9.0 if row["step"] in (20, 31) else 1.0 + 0.01 * (row["step"] % 2)
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return copy


def test_the_rows_of_spikes_are_named(spiky, capsys):
    [finding] = [each for each in examine(spiky, capsys)["findings"] if each["name"] == "loss-spikes"]
    spikes = finding["details"]["spikes"]
    assert [each["last"] for each in spikes] == [20, 31]
    assert [len(each["rows"]) for each in spikes] == [2, 2]  # the batch size
    [finding] = [each for each in examine(spiky, capsys, worst=1)["findings"] if each["name"] == "loss-spikes"]
    assert all("loss" in row for each in finding["details"]["spikes"] for row in each["rows"])
    run_doctor(str(spiky))
    assert "step 20: chats.jsonl:" in capsys.readouterr().out


def test_what_is_not_there_any_more(spiky, capsys):
    record = json.loads((spiky / "run.json").read_text())
    RunFolder(spiky).update(settings={**record["settings"], "dataset": ["gone.jsonl"]})
    run_doctor(str(spiky))
    assert "their rows cannot be told: file not found (" in capsys.readouterr().out
    with pytest.raises(BurnishError, match=r"gone\.jsonl"):
        run_doctor(str(spiky), probe=1)


def test_stages_that_cannot_be_asked(spiky):
    record = json.loads((spiky / "run.json").read_text())
    RunFolder(spiky).update(settings={**record["settings"], "stage": "rm"})
    with pytest.raises(BurnishError, match="stage: rm does not teach the answers of the data"):
        run_doctor(str(spiky), probe=1)
    with pytest.raises(BurnishError, match="the loss of stage: rm is not one of single rows"):
        run_doctor(str(spiky), worst=1)
