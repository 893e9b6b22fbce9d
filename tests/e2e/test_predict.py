"""`burnish predict` and do_predict: LLaMA-Factory's files, run folders, held-out rows."""

from __future__ import annotations

import json

import pytest
import yaml

from burnish import api
from burnish.api import predict_with
from burnish.cli.predict import run_predict, understand
from burnish.cli.train import run_train
from burnish.config import load_settings
from burnish.errors import BurnishError, RunFolderError
from tests.judges import judge_server
from tests.runs import settings

SHORT = {"max_new_tokens": 6, "do_sample": False}


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A run that has predicted the rows that it held out."""
    folder = tmp_path_factory.mktemp("predicting")
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} {n}"}]}
        for n in range(12)
    ]
    data = folder / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = settings(
        tiny_folder, data, folder / "run", val_size=4, do_train=True, do_predict=True, max_steps=2, **SHORT
    )
    record = api.train(values)
    return folder, data, values, record


def test_what_was_held_out_is_predicted_after_training(run):
    folder, _, values, record = run
    found = lines(folder / "run")
    assert len(found) == 4
    assert all(line["reference"] == f"{line['row']} {line['row']}" for line in found)
    assert record["predict"]["pairs"] == 4
    kept = json.loads((folder / "run" / "run.json").read_text())
    assert kept["predict"]["pairs"] == 4
    assert kept["status"] == "completed"
    assert json.loads((folder / "run" / "predict.json").read_text())["model"] == str(folder / "run"), "the tuned one"
    asked, name = understand(str(folder / "run"), None, ["max_new_tokens=6"])
    assert name == str(folder / "run")
    assert predict_with(asked, name)["metrics"] == record["predict"], "the same again: nothing is left to do"
    with pytest.raises(RunFolderError, match="other settings"):
        predict_with(understand(str(folder / "run"), None, ["max_new_tokens=5"])[0], name)
    assert asked.data.val_size == values["val_size"]


def test_a_run_answers_any_data(run, tmp_path):
    folder, data, _, _ = run
    words = [f"eval_dataset={data}", f"output_dir={tmp_path}", "max_samples=3", "do_sample=false"]
    asked, name = understand(str(folder / "run"), None, words)
    assert predict_with(asked, name)["rows"] == 3
    assert [line["row"] for line in lines(tmp_path)] == [0, 1, 2]
    with pytest.raises(BurnishError, match="'learning_rate' has no effect on predictions"):
        understand(str(folder / "run"), None, ["learning_rate=1"])
    with pytest.raises(BurnishError, match="max_length limits prompt"):
        understand(str(folder / "run"), None, ["cutoff_len=10"])


def test_a_model_without_data_is_told(tiny_folder):
    asked, name = understand(str(tiny_folder), None, [])
    with pytest.raises(BurnishError, match="no data is named"):
        predict_with(asked, name)


@pytest.mark.parametrize("told", [{}, {"do_eval": False}])
def test_data_that_is_predicted_is_not_called_unused(told, tiny_folder, chat_file, monkeypatch, capsys):
    monkeypatch.setattr("burnish.api.predict_with", lambda settings, name: None)
    given = {"model_name_or_path": str(tiny_folder), "eval_dataset": str(chat_file), "eval_strategy": "no", **told}
    file = chat_file.with_name("predict.yaml")
    file.write_text(json.dumps(given))
    asked, _ = understand(str(file), str(tiny_folder), [])
    assert any("evaluation data is set" in line for line in asked.notes)
    run_predict(str(file), str(tiny_folder), [])
    assert "evaluation data is set" not in "".join(capsys.readouterr())


def test_two_processes_are_refused(tiny_folder, chat_file, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked, name = understand(str(tiny_folder), None, [f"eval_dataset={chat_file}"])
    with pytest.raises(BurnishError, match="in one process"):
        predict_with(asked, name)


def test_only_predicting_needs_no_training_data():
    need = ("model_name_or_path", "dataset")
    given = {"model_name_or_path": "a", "do_predict": True, "eval_dataset": "b"}
    assert load_settings(given, require=need).training.do_train is False
    with pytest.raises(BurnishError, match="'dataset' is not set"):
        load_settings({**given, "do_train": True}, require=need)


def test_a_prediction_file_of_llamafactory(tiny_folder, tmp_path, capsys):
    alpaca = [{"instruction": f"Add {n}", "input": str(n), "output": str(2 * n)} for n in range(5)]
    (tmp_path / "sums.json").write_text(json.dumps(alpaca))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"sums": {"file_name": "sums.json"}}))
    values = {
        **{"model_name_or_path": str(tiny_folder), "stage": "sft", "do_predict": True, "finetuning_type": "lora"},
        **{"eval_dataset": "sums", "dataset_dir": str(tmp_path), "template": "chatml", "cutoff_len": 2048},
        **{"max_samples": 4, "overwrite_cache": True, "preprocessing_num_workers": 2, "use_cpu": True},
        **{"output_dir": str(tmp_path / "out"), "overwrite_output_dir": True, "max_new_tokens": 4},
        **{"per_device_eval_batch_size": 1, "predict_with_generate": True, "ddp_timeout": 180000000},
    }
    (tmp_path / "predict.yaml").write_text(yaml.safe_dump(values))
    run_train(str(tmp_path / "predict.yaml"), [])
    assert "only predicts" in capsys.readouterr().out
    assert [line["reference"] for line in lines(tmp_path / "out")] == ["0", "2", "4", "6"]
    assert not (tmp_path / "out" / "run.json").exists(), "nothing was trained"


def answers_by_number(asked):
    """Says the number that it is asked for, in its own way; 3 is against the server's rules."""
    number = asked["messages"][-1]["content"].split()[-1]
    if number == "3":
        return 400, {"error": {"message": "not this"}}, {}
    return f"{number} {number}" if int(number) % 2 else "no"


def test_a_server_answers_data(run, tmp_path, capsys):
    _, data, _, _ = run
    out = tmp_path / "out"
    words = [f"eval_dataset={data}", f"output_dir={out}", "max_new_tokens=6", "temperature=0.5", "top_k=7"]
    with judge_server(answers_by_number, models=["tuned", "base"]) as server:
        with pytest.raises(BurnishError, match="several models"):
            run_predict(server.url, None, words)
        run_predict(server.url, "tuned", words)
        sent = server.asked[0]
        assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["top_k"]) == ("tuned", 6, 0.5, 7)
        found = lines(out)
        assert [line["index"] for line in found] == list(range(12))
        assert (found[5]["prediction"], found[5]["reference"], found[5]["messages"][0]["content"]) == (
            "5 5",
            "5 5",
            "Say 5",
        )
        assert found[3]["skipped"] == "the server refuses it (400)"
        record = json.loads((out / "predict.json").read_text())
        assert (record["model"], record["url"], record["predicted"]) == ("tuned", server.url, 11)
        assert record["metrics"]["exact_matches"] == 5
        assert (out / "predictions.html").is_file()

        # What was cut off is gone on with; what is complete is asked no more.
        kept = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
        (out / "predictions.jsonl").write_text("".join(kept[:9]))
        (out / "predict.json").write_text(json.dumps({**record, "status": "running"}))
        asked = len(server.asked)
        run_predict(server.url, "tuned", words)
        assert len(server.asked) == asked + 3
        assert (out / "predictions.jsonl").read_text() == "".join(kept)
        assert "9 of 12 rows were predicted before" in capsys.readouterr().out

        with pytest.raises(RunFolderError, match="other weights"):
            run_predict(server.url, "base", words)
        run_predict(server.url, "base", [*words, "overwrite_output_dir=true"])
        assert server.asked[-1]["model"] == "base"


def test_what_a_server_decides_is_no_setting_of_predict(run):
    _, data, _, _ = run
    for word in ("template=qwen3", "max_length=9", "val_size=0.5", "infer_dtype=float32"):
        with pytest.raises(BurnishError, match=f"'{word.split('=')[0]}' has no effect on a served model"):
            run_predict("http://127.0.0.1:9/v1", None, [f"dataset={data}", word])
    with pytest.raises(BurnishError, match="no data is named"):
        run_predict("http://127.0.0.1:9/v1", None, [])
    with pytest.raises(BurnishError) as error:
        run_predict("run.yaml", "http://127.0.0.1:9/v1", [])
    assert "burnish predict http://127.0.0.1:9/v1 --model NAME" in error.value.fix
